using System.Collections;


namespace Microsoft.DotNet.Interactive.Formatting;

/// <summary>
/// The convention by which a library says how its types are shown, without referencing any notebook package: an attribute named
/// TypeFormatterSource with a FormatterSourceType (it has CreateTypeFormatters()) and PreferredMimeTypes; each formatter has MimeType and
/// bool Format(object, TextWriter). All are found by name.
/// </summary>
internal sealed class FormatterSource
{
    private readonly List<(string Mime, Func<object, TextWriter, bool> Format)> _formatters = [];

    internal IReadOnlyList<string> PreferredMimeTypes { get; private init; } = [];

    internal static FormatterSource? Find(Type type)
    {
        foreach (var candidate in Ancestors(type))
        {
            var attribute = candidate.GetCustomAttributes(inherit: false).FirstOrDefault(a => a.GetType().Name is "TypeFormatterSourceAttribute");
            if (attribute is null || Get(attribute, "FormatterSourceType") is not Type sourceType) continue;
            var create = sourceType.GetMethod("CreateTypeFormatters", Type.EmptyTypes)
                ?? throw new NotSupportedException($"[TypeFormatterSource] {sourceType} must have a public method CreateTypeFormatters()");
            var formatters = create.Invoke(create.IsStatic ? null : Activator.CreateInstance(sourceType), null) as IEnumerable ?? Array.Empty<object>();
            var source = new FormatterSource { PreferredMimeTypes = Get(attribute, "PreferredMimeTypes") as IReadOnlyList<string> ?? [] };
            foreach (var formatter in formatters) source.Add(formatter);
            return source;
        }
        return null;
    }

    internal bool Format(object value, string mime, TextWriter writer) => _formatters.Any(f => f.Mime == mime && f.Format(value, writer));

    private void Add(object formatter)
    {
        var format = formatter.GetType().GetMethod("Format", [typeof(object), typeof(TextWriter)]);
        if (format is null || Get(formatter, "MimeType") is not string mime) return;
        _formatters.Add((mime, (value, writer) => format.Invoke(formatter, [value, writer]) is true));
    }

    private static IEnumerable<Type> Ancestors(Type type)
    {
        for (var t = type; t is not null; t = t.BaseType) yield return t;
        foreach (var i in type.GetInterfaces()) yield return i;
    }

    private static object? Get(object owner, string property) => owner.GetType().GetProperty(property)?.GetValue(owner);
}
