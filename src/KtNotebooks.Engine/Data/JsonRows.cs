using System.Text.Json;
using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// The rows of a .json file: a list of objects, read one after another; objects on lines, as Hugging Face's loader takes them too; or one object, which
/// <see cref="SingleObject"/> looks into.
/// </summary>
internal static class JsonRows
{
    /// <param name="file">The file.</param>
    /// <param name="keys">The columns that rows of this set have, which tell a row from a box around rows.</param>
    public static IEnumerable<Row> Read(string file, IReadOnlyList<string> keys)
    {
        using var window = RowReader.Open(file);
        if (window.FirstExcept(RowReader.Blank) is not { } first) return [];
        if (first == '[') return ReadList(file);
        if (first != '{') throw new InvalidDataException($"{file}: expected a list of rows, [{{…}}, …], or one row on each line.");
        var values = new JsonValues(window, file, "the file is one object, which is read whole and");
        values.Next(out var root);
        return window.FirstExcept(RowReader.Blank) switch
        {
            null => SingleObject.Rows(root, file, keys),
            (byte)',' => throw new InvalidDataException($"{file}: holds objects with commas between, but not the brackets of a list around them. Write ["
                + $" before the first and ] after the last."),
            (byte)'{' when values.Lines > 0 => throw new InvalidDataException(
                $"{file}: holds objects one after another, the first on {values.Lines + 1} lines. Make a list of them, [{{…}}, …], or write each on one line."),
            _ => LineRows.Read(file),
        };
    }

    /// <summary>A list of rows, of which one at a time is in memory.</summary>
    public static IEnumerable<Row> ReadList(string file)
    {
        using var window = RowReader.Open(file);
        var values = new JsonValues(window, file, "the row");
        while (values.Next(out var row)) yield return RowReader.Checked(row, $"{file}:{values.Count}");
    }
}

/// <summary>The values of a JSON list, or the first value of a file that is no list.</summary>
/// <param name="window">The file's bytes.</param>
/// <param name="file">Its name.</param>
/// <param name="what">What a value is, for errors.</param>
internal sealed class JsonValues(ByteWindow window, string file, string what)
{
    private JsonReaderState _state;
    private bool _inList;

    /// <summary>Values read so far.</summary>
    public int Count { get; private set; }

    /// <summary>Line ends in the value of a file that is no list.</summary>
    public int Lines { get; private set; }

    /// <exception cref="InvalidDataException">Not valid JSON; file, row and place are named.</exception>
    public bool Next(out JsonElement value)
    {
        for (; ; )
        {
            var reader = new Utf8JsonReader(window.Span, window.AtEnd, _state);
            try
            {
                if (reader.Read())
                {
                    var opens = !_inList && Count == 0 && reader.TokenType == JsonTokenType.StartArray;
                    if (opens || (_inList && reader.TokenType == JsonTokenType.EndArray))
                    {
                        _inList = true;
                        Keep(reader);
                        continue; // behind the last bracket the reader takes nothing but blanks
                    }
                    if (JsonElement.TryParseValue(ref reader, out var read))
                    {
                        if (!_inList) Lines = window.Span[..(int)reader.BytesConsumed].Count((byte)'\n');
                        Keep(reader);
                        Count++;
                        value = read.Value;
                        return true;
                    }
                }
            }
            catch (JsonException e)
            {
                throw new InvalidDataException(
                    $"{file}:{Count + 1}: not valid JSON in row {Count + 1}, line {e.LineNumber + 1}, byte {e.BytePositionInLine + 1}:"
                        + $" {JsonSource.Reason(e)}", e);
            }
            if (window.Fill(what, $"{file}:{Count + 1}") || !reader.IsFinalBlock) continue;
            value = default;
            return false;
        }
    }

    // What is understood leaves the window; the next reader goes on behind it.
    private void Keep(Utf8JsonReader reader)
    {
        window.Take((int)reader.BytesConsumed);
        _state = reader.CurrentState;
    }
}
