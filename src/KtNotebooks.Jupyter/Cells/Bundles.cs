using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive;

using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// Values as bundles, by .NET Interactive's formatters. Unlike there every value also gets text/plain, which terminals, diffs and screen readers need, and what
/// is a number or a word gets nothing else, unless somebody has said how to show it.
/// </summary>
internal static class Bundles
{
    /// <param name="value">Anything.</param>
    /// <param name="mimeTypes">Empty: those preferred for the value's type.</param>
    internal static MimeBundle Of(object? value, params string[] mimeTypes)
    {
        switch (value)
        {
            case null: return new MimeBundle(Formatter.NullString);
            case MimeBundle bundle: return bundle;
            case FormattedValue formatted: return Join([formatted], null);
            case IEnumerable<FormattedValue> formatted: return Join(formatted, null);
            case IShowable showable when mimeTypes.Length == 0 && !HasFormatter(value.GetType()): return showable.Show();
            default:
                var wanted = mimeTypes.Length > 0 ? mimeTypes : Preferred(value.GetType());
                return Join(wanted.Select(m => new FormattedValue(m, value.ToDisplayString(m))), value);
        }
    }

    /// <param name="formatted">The forms that are there.</param>
    /// <param name="value">What they are forms of, where that is known: its text is made when none of them is text/plain.</param>
    internal static MimeBundle Join(IEnumerable<FormattedValue> formatted, object? value)
    {
        var forms = formatted.ToArray();
        var text = forms.FirstOrDefault(f => f.MimeType == PlainTextFormatter.MimeType)?.Value
            ?? (value is null ? forms.FirstOrDefault()?.Value ?? "" : value.ToDisplayString());
        var bundle = new MimeBundle(text);
        foreach (var form in forms.Where(f => f.MimeType != PlainTextFormatter.MimeType)) bundle.With(form.MimeType, Data(form.MimeType, form.Value));
        return bundle;
    }

    /// <summary>One line of at most 80 characters.</summary>
    internal static string Short(object? value)
    {
        const int Most = 80;
        var text = value.ToDisplayString().ReplaceLineEndings(" ");
        return text.Length <= Most ? text : text[..(Most - 1)] + "…";
    }

    private static string[] Preferred(Type type)
    {
        var preferred = Formatter.GetPreferredMimeTypesFor(type);
        return preferred.Count == 1 && preferred.Contains(Formatter.DefaultMimeType) && IsScalar(type) && !HasFormatter(type)
            ? [PlainTextFormatter.MimeType] : [.. preferred];
    }

    private static bool HasFormatter(Type type) => Formatter.RegisteredFormatters(includeDefaults: false).Any(f => f.Type.IsAssignableFrom(type));

    private static bool IsScalar(Type type) =>
        type.IsPrimitive || type.IsEnum || type == typeof(string) || typeof(IFormattable).IsAssignableFrom(type)
        || Nullable.GetUnderlyingType(type) is { } inner && IsScalar(inner);

    /// <summary>The protocol wants JSON types as JSON and not as a string that holds it.</summary>
    private static object Data(string mimeType, string text)
    {
        if (mimeType != "application/json" && !mimeType.EndsWith("+json", StringComparison.Ordinal)) return text;
        try
        {
            return JsonNode.Parse(text) ?? (object)text;
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"[display] {mimeType} must be valid JSON: {e.Message}", e);
        }
    }
}
