using System.Collections;
using System.Collections.Concurrent;

using KtNotebooks.Interactive;

namespace Microsoft.DotNet.Interactive.Formatting;

/// <summary>
/// How values become text for a MIME type. Source-compatible with .NET Interactive's class of the same name, which notebooks use.
/// Rule: the most specific type wins; among equals the latest registration. Then a formatter source declared on the type by
/// [TypeFormatterSource], found by name; then the defaults: HTML tables and plain text.
/// Unlike .NET Interactive every value also gets text/plain, which terminals, diffs and screen readers need.
/// </summary>
public static class Formatter
{
    private static readonly ConcurrentDictionary<Type, FormatterSource?> Sources = new();
    private static readonly Lock Gate = new();
    private static readonly List<(Type Type, string Mime, Action<object, TextWriter> Write)> Registered = [];
    private static readonly List<(Type Type, string[] Mimes)> Preferred = [];

    public const string HtmlMimeType = "text/html";
    public const string PlainMimeType = "text/plain";

    /// <summary>The type shown beside text/plain when nothing else is preferred.</summary>
    public static string DefaultMimeType { get; set; } = HtmlMimeType;

    /// <summary>Items of a sequence that are shown.</summary>
    public static int ListExpansionLimit { get; set; } = 20;

    /// <summary>How deep nested objects are written out.</summary>
    public static int RecursionLimit { get; set; } = 6;

    public static string NullString { get; set; } = "<null>";

    public static void Register<T>(Func<T, string> formatter, string mimeType = PlainMimeType) =>
        Register(typeof(T), (o, w) => w.Write(formatter((T)o)), mimeType);

    public static void Register<T>(Action<T, TextWriter> formatter, string mimeType = PlainMimeType) =>
        Register(typeof(T), (o, w) => formatter((T)o, w), mimeType);

    /// <summary><paramref name="type"/> may be an open generic such as typeof(List&lt;&gt;).</summary>
    public static void Register(Type type, Action<object, TextWriter> formatter, string mimeType = PlainMimeType)
    {
        lock (Gate) Registered.Add((type, mimeType, formatter));
    }

    public static void SetPreferredMimeTypesFor(Type type, params string[] preferredMimeTypes)
    {
        lock (Gate) Preferred.Add((type, preferredMimeTypes));
    }

    public static IReadOnlyList<string> GetPreferredMimeTypesFor(Type type) => MimesFor(type);

    public static void ResetToDefault()
    {
        lock (Gate)
        {
            Registered.Clear();
            Preferred.Clear();
        }
        (DefaultMimeType, ListExpansionLimit, RecursionLimit, NullString) = (HtmlMimeType, 20, 6, "<null>");
    }

    public static string ToDisplayString(this object? value, string mimeType = PlainMimeType) => value is null ? NullString
        : Format(value, mimeType) ?? PlainText.Of(value);

    /// <param name="value">Anything; null is shown as <see cref="NullString"/>.</param>
    /// <param name="mimeTypes">Empty: those preferred for the value's type.</param>
    internal static MimeBundle Bundle(object? value, params string[] mimeTypes)
    {
        if (value is null) return new MimeBundle(NullString);
        if (value is FormattedValue formatted) return formatted.Bundle();
        if (value is MimeBundle bundle) return bundle;
        var custom = Best(value.GetType()) is not null;
        if (value is IShowable showable && mimeTypes.Length == 0 && !custom) return showable.Show();
        var result = new MimeBundle(Format(value, PlainMimeType) ?? PlainText.Of(value));
        foreach (var mime in mimeTypes.Length > 0 ? mimeTypes : MimesFor(value.GetType()))
        {
            if (mime != PlainMimeType && Format(value, mime) is { } text) result.With(mime, FormattedValue.Data(mime, text));
        }
        return result;
    }

    private static string[] MimesFor(Type type)
    {
        lock (Gate)
        {
            var preferred = Preferred.Select((p, i) => (p.Mimes, Distance: Distance(type, p.Type), i)).Where(p => p.Distance is not null)
                .OrderBy(p => p.Distance).ThenByDescending(p => p.i).Select(p => p.Mimes).FirstOrDefault();
            if (preferred is not null) return preferred;
        }
        if (SourceOf(type)?.PreferredMimeTypes is { Count: > 0 } declared) return [.. declared];
        // A formatter registered for the type itself is shown even if nobody said that its MIME type is preferred.
        lock (Gate)
        {
            var own = Registered.Where(r => r.Type != typeof(object) && Distance(type, r.Type) is < InterfaceDistance).Select(r => r.Mime)
                .Where(m => m != PlainMimeType);
            return [.. own.Append(PlainText.IsScalar(type) ? PlainMimeType : DefaultMimeType).Distinct()];
        }
    }

    private static string? Format(object value, string mime)
    {
        var writer = new StringWriter();
        if (Best(value.GetType(), mime) is { } write)
        {
            write(value, writer);
            return writer.ToString();
        }
        if (SourceOf(value.GetType()) is { } source && source.Format(value, mime, writer)) return writer.ToString();
        return mime switch
        {
            PlainMimeType => PlainText.Of(value),
            HtmlMimeType when value is AspNetCore.Html.IHtmlContent html => HtmlText.Of(html),
            HtmlMimeType => HtmlText.Of(value),
            "application/json" => System.Text.Json.JsonSerializer.Serialize(value),
            "text/csv" when value is IEnumerable rows => HtmlText.Csv(rows),
            _ when value is string text => text,
            _ => null,
        };
    }

    private static Action<object, TextWriter>? Best(Type type, string? mime = null)
    {
        lock (Gate)
        {
            return Registered.Select((r, i) => (r, Distance: Distance(type, r.Type), i))
                .Where(c => c.Distance is not null && (mime is null || c.r.Mime == mime))
                .OrderBy(c => c.Distance).ThenByDescending(c => c.i).Select(c => c.r.Write).FirstOrDefault();
        }
    }

    private const int InterfaceDistance = 1000;

    /// <returns>How far up a registered type is from the value's type; null if it does not fit. Classes come before interfaces, object last.</returns>
    private static int? Distance(Type type, Type registered)
    {
        if (registered == typeof(object)) return int.MaxValue;
        var steps = 0;
        for (var t = type; t is not null; t = t.BaseType, steps++)
        {
            if (Same(t, registered)) return steps;
        }
        return type.GetInterfaces().Any(i => Same(i, registered)) ? InterfaceDistance : null;
    }

    private static bool Same(Type type, Type registered) =>
        type == registered || registered.IsGenericTypeDefinition && type.IsGenericType && type.GetGenericTypeDefinition() == registered;

    private static FormatterSource? SourceOf(Type type) => Sources.GetOrAdd(type, FormatterSource.Find);
}
