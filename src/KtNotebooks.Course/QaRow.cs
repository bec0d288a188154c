using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace KtNotebooks.Course;

/// <summary>A row in the alpaca layout as our own data sets write it: what is asked, what is answered, and the turns before.</summary>
public sealed record QaRow(
    [property: JsonPropertyName("instruction"), JsonPropertyOrder(0)] string Instruction,
    [property: JsonPropertyName("output"), JsonPropertyOrder(2)] string Output)
{
    /// <summary>The second half of the question; not written if there is none.</summary>
    [JsonPropertyName("input"), JsonPropertyOrder(1), JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string? Input { get; init; }

    /// <summary>Earlier turns, each [question, answer]; not written if there are none.</summary>
    [JsonPropertyName("history"), JsonPropertyOrder(3), JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public string[][]? History { get; init; }

    /// <summary>One line of a .jsonl file, without its end.</summary>
    public string ToJson() => JsonSerializer.Serialize(this, QaRowJson.Plain.QaRow);

    /// <summary>A JSON array with one row a line pair, readable in a diff: LF, no byte-order mark, Chinese unescaped.</summary>
    public static string ToJsonArray(IEnumerable<QaRow> rows)
    {
        var text = new StringBuilder("[\n");
        text.AppendJoin(",\n", rows.Select(row => row.ToJson()));
        return text.Append("\n]\n").ToString();
    }
}

[JsonSerializable(typeof(QaRow))]
internal sealed partial class QaRowJson : JsonSerializerContext
{
    /// <summary>Chinese stays readable; the files are data and never pasted into HTML.</summary>
    public static readonly QaRowJson Plain = new(new JsonSerializerOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
}
