using System.Text;
using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>Plain text for pre-training, as Hugging Face's `text` reads it: each line is a row with the column `text`. Empty lines are skipped.</summary>
internal static class TextRows
{
    public static IEnumerable<Row> Read(string file)
    {
        using var lines = RowReader.Open(file);
        for (var line = 1; ; line++)
        {
            var length = LineRows.LengthOf(lines, $"{file}:{line}");
            var text = Encoding.UTF8.GetString(lines.Span[..length]).TrimEnd('\r');
            if (!string.IsNullOrWhiteSpace(text))
                yield return new Row(JsonSerializer.SerializeToElement(new Dictionary<string, string> { ["text"] = text }), $"{file}:{line}");
            if (length == lines.Span.Length) yield break; // the last line, which nothing ends
            lines.Take(length + 1);
        }
    }
}
