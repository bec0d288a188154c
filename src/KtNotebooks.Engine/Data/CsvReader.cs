using System.Buffers;
using System.Text;
using System.Text.Json;
using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// CSV by RFC 4180: a header line, commas, quotes doubled inside quotes, line breaks allowed inside quotes. An empty field is null. Read field after field; a
/// field must fit the memory.
/// </summary>
public sealed class CsvReader
{
    private static readonly UTF8Encoding Strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);

    private readonly ByteWindow _window;
    private readonly string _file;
    private readonly ArrayBufferWriter<byte> _field = new();
    private int _line = 1;

    private CsvReader(ByteWindow window, string file) => (_window, _file) = (window, file);

    private string Here => $"{_file}:{_line}";

    /// <summary>The rows of a file.</summary>
    /// <inheritdoc cref="Read(ByteWindow, string)"/>
    public static IEnumerable<Row> Read(string file)
    {
        using var window = RowReader.Open(file);
        foreach (var row in Read(window, file)) yield return row;
    }

    /// <summary>The rows of bytes.</summary>
    /// <exception cref="InvalidDataException">A row has another number of fields than the header, or a quote is not closed.</exception>
    internal static IEnumerable<Row> Read(ByteWindow window, string file)
    {
        var reader = new CsvReader(window, file);
        string[]? header = null;
        while (reader.Peek() is not null)
        {
            var place = reader.Here;
            var fields = reader.Record();
            if (fields is [null])
                continue; // an empty line
            if (header is null)
            {
                header = [.. fields.Select(f => f ?? "")];
                if (header is [var only] && only.Contains(';', StringComparison.Ordinal))
                    throw new InvalidDataException($"{place}: the header '{only}' is one column: its fields are separated by semicolons, as Excel writes them "
                        + "in many countries. Save the file with commas.");
                if (header.Distinct().Count() < header.Length)
                    throw new InvalidDataException($"{place}: two columns of the header have the same name.");
                continue;
            }
            if (fields.Count != header.Length)
                throw new InvalidDataException($"{place}: the row has {fields.Count} fields, the header {header.Length}. A field with a comma or a line"
                    + $" break needs quotes around it.");
            var row = new Dictionary<string, string?>(header.Length);
            for (var i = 0; i < header.Length; i++)
                row[header[i]] = fields[i];
            yield return new Row(JsonSerializer.SerializeToElement(row), place);
        }
    }

    private byte? Peek() => _window.Span.Length > 0 || _window.Fill("", _file) ? _window.Span[0] : null;

    /// <summary>Takes the next byte if it is this one.</summary>
    private bool Take(char wanted)
    {
        if (Peek() != wanted) return false;
        _window.Take(1);
        return true;
    }

    private List<string?> Record()
    {
        var fields = new List<string?>();
        do fields.Add(Field());
        while (Take(','));
        Take('\r');
        Take('\n');
        _line++;
        return fields;
    }

    private string? Field()
    {
        var place = Here;
        _field.ResetWrittenCount();
        if (!Take('"'))
        {
            TakeUntil(",\r\n"u8, place);
            return Text(place);
        }
        for (; ; )
        {
            var from = _field.WrittenCount;
            if (!TakeUntil("\""u8, place))
                throw new InvalidDataException($"{place}: a quote that opens a field is never closed.");
            _line += _field.WrittenSpan[from..].Count((byte)'\n');
            _window.Take(1);
            if (!Take('"'))
                break;
            _field.Write("\""u8);
        }
        if (Peek() is not (null or (byte)',' or (byte)'\r' or (byte)'\n'))
            throw new InvalidDataException($"{Here}: something follows the closing quote of a field; quotes inside a field are doubled.");
        return Text(place);
    }

    /// <summary>Moves bytes into the field up to one of the given ones; false when the file ends first.</summary>
    private bool TakeUntil(ReadOnlySpan<byte> ends, string place)
    {
        while (Peek() is not null)
        {
            var at = _window.Span.IndexOfAny(ends);
            var taken = _window.Span[..(at < 0 ? _window.Span.Length : at)];
            if (_field.WrittenCount + taken.Length > ByteWindow.Longest)
                throw new InvalidDataException($"{place}: the field has more than {ByteWindow.Longest / 1e6:N0} MB, the most that is read at once; a"
                    + $" quote may be missing.");
            _field.Write(taken);
            _window.Take(taken.Length);
            if (at >= 0)
                return true;
        }
        return false;
    }

    private string? Text(string place)
    {
        try
        {
            return _field.WrittenCount == 0 ? null : Strict.GetString(_field.WrittenSpan);
        }
        catch (DecoderFallbackException)
        {
            throw Utf8Text.Invalid(place);
        }
    }
}
