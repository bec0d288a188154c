using System.Collections;
using System.Net;
using System.Text;
using System.Text.Encodings.Web;

using Microsoft.AspNetCore.Html;



namespace Microsoft.DotNet.Interactive.Formatting;

/// <summary>Values as HTML without script or style sheet: sequences are tables with a column per property, objects tables with a row per property.</summary>
internal static class HtmlText
{
    internal static string Of(IHtmlContent html)
    {
        var writer = new StringWriter();
        html.WriteTo(writer, HtmlEncoder.Default);
        return writer.ToString();
    }

    internal static string Of(object value)
    {
        if (PlainText.IsScalar(value.GetType())) return $"<pre>{Encode(value)}</pre>";
        if (value is IDictionary map) return Table(["key", "value"], map.Cast<object?>()
            .Select(e => { var (k, v) = PlainText.Entry(e); return (object?[])[k, v]; }));
        if (value is IEnumerable items && !PlainText.HasOwnText(value.GetType())) return Sequence(items.Cast<object?>());
        var members = PlainText.Members(value);
        return members.Count == 0 || PlainText.HasOwnText(value.GetType()) && !IsRecord(value.GetType())
            ? $"<pre>{Encode(value)}</pre>"
            : Table([TypeNames.Of(value.GetType()), ""], members.Select(m => (object?[])[m.Name, m.Value]));
    }

    /// <summary>One line a row, quoted where needed.</summary>
    internal static string Csv(IEnumerable rows)
    {
        var text = new StringBuilder();
        foreach (var row in rows)
        {
            var members = Columns(row);
            if (text.Length == 0) text.AppendLine(string.Join(',', members.Select(m => Quote(m.Name))));
            text.AppendLine(string.Join(',', members.Select(m => Quote($"{m.Value}"))));
        }
        return text.ToString();
    }

    private static string Sequence(IEnumerable<object?> items)
    {
        List<List<(string Name, object? Value)>> rows = [];
        var more = false;
        foreach (var item in items)
        {
            if (more = rows.Count == Formatter.ListExpansionLimit) break;
            rows.Add(Columns(item));
        }
        var names = rows.SelectMany(r => r.Select(m => m.Name)).Distinct().ToArray();
        var body = rows.Select((r, i) => (object?[])[i, .. names.Select(n => r.Exists(m => m.Name == n) ? r.Find(m => m.Name == n).Value : "")]);
        return Table(["", .. names], body) + (more ? "<p>…</p>" : "");
    }

    private static List<(string Name, object? Value)> Columns(object? item) =>
        item is null || PlainText.IsScalar(item.GetType()) || item is IEnumerable || PlainText.HasOwnText(item.GetType()) && !IsRecord(item.GetType())
            ? [("value", item)]
            : PlainText.Members(item);

    private static bool IsRecord(Type type) => type.GetMethod("<Clone>$") is not null || type.Name.StartsWith("<>f__AnonymousType", StringComparison.Ordinal);

    private static string Table(IEnumerable<string> head, IEnumerable<object?[]> rows)
    {
        var html = new StringBuilder("<table><thead><tr>");
        foreach (var name in head) html.Append("<th>").Append(Encode(name)).Append("</th>");
        html.Append("</tr></thead><tbody>");
        foreach (var row in rows)
        {
            html.Append("<tr>");
            foreach (var cell in row) html.Append("<td>").Append(cell is IHtmlContent content ? Of(content) : Encode(cell)).Append("</td>");
            html.Append("</tr>");
        }
        return html.Append("</tbody></table>").ToString();
    }

    private static string Encode(object? value) => WebUtility.HtmlEncode(PlainText.Of(value));

    private static string Quote(string text) => text.AsSpan().IndexOfAny(",\"\n\r") < 0 ? text : $"\"{text.Replace("\"", "\"\"")}\"";
}
