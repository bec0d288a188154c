using System.Text.Json;
using System.Text.Json.Nodes;

using Apache.Arrow;
using Apache.Arrow.Ipc;

using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// The rows of an .arrow file, of which one record batch at a time is in memory: a stream, as Hugging Face's datasets keep their caches, or a file with
/// the ARROW1 mark.
/// </summary>
internal static class ArrowRows
{
    /// <exception cref="InvalidDataException">Not Arrow, damaged, or columns of a kind that no row has.</exception>
    public static IEnumerable<Row> Read(string file)
    {
        using var stream = RegularFile.Open(file, "a data file");
        var magic = new byte[6];
        var isFile = stream.ReadAtLeast(magic, magic.Length, throwOnEndOfStream: false) == magic.Length && magic.AsSpan().SequenceEqual("ARROW1"u8);
        stream.Position = 0;
        using var reader = isFile ? new ArrowFileReader(stream) : new ArrowStreamReader(stream);
        var number = 0;
        while (Next(reader, file, number) is { } batch)
        {
            using (batch)
                for (var i = 0; i < batch.Length; i++)
                {
                    var source = $"{file}:{++number}";
                    var row = new JsonObject();
                    for (var c = 0; c < batch.ColumnCount; c++) row[batch.Schema.FieldsList[c].Name] = Node(batch.Column(c), i, source);
                    yield return new Row(JsonSerializer.SerializeToElement(row), source);
                }
        }
    }

    private static RecordBatch? Next(ArrowStreamReader reader, string file, int read)
    {
        try
        {
            return reader.ReadNextRecordBatch();
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            throw new InvalidDataException($"{file}: after row {read:N0} it is not valid Arrow ({error.Message.TrimEnd('.')}). Download or write the file "
                + "again.", error);
        }
    }

    private static JsonNode? Node(IArrowArray column, int i, string source)
    {
        if (column.IsNull(i)) return null;
        switch (column)
        {
            case StringArray texts: return texts.GetString(i);
            case LargeStringArray texts: return texts.GetString(i);
            case BooleanArray truths: return truths.GetValue(i);
            case Int8Array numbers: return numbers.GetValue(i);
            case Int16Array numbers: return numbers.GetValue(i);
            case Int32Array numbers: return numbers.GetValue(i);
            case Int64Array numbers: return numbers.GetValue(i);
            case UInt8Array numbers: return numbers.GetValue(i);
            case UInt16Array numbers: return numbers.GetValue(i);
            case UInt32Array numbers: return numbers.GetValue(i);
            case UInt64Array numbers: return numbers.GetValue(i);
            case FloatArray numbers: return numbers.GetValue(i);
            case DoubleArray numbers: return numbers.GetValue(i);
            case DictionaryArray words:
                return Node(words.Dictionary, (int)(Node(words.Indices, i, source) as JsonValue)!.GetValue<int>(), source);
            case StructArray fields:
                var type = (Apache.Arrow.Types.StructType)fields.Data.DataType;
                return new JsonObject(type.Fields.Select((f, n) => KeyValuePair.Create(f.Name, Node(fields.Fields[n], i, source))));
            case ListArray list:
                return Items(list.Values, list.ValueOffsets[i], list.ValueOffsets[i + 1], source);
            case LargeListArray list:
                return Items(list.Values, (int)list.ValueOffsets[i], (int)list.ValueOffsets[i + 1], source);
            default:
                throw new InvalidDataException($"{source}: a column is of Arrow's type {column.Data.DataType.Name}; a data set's columns are texts, "
                    + "numbers, and lists and structs of them.");
        }
    }

    private static JsonArray Items(IArrowArray values, int from, int to, string source) =>
        new([.. Enumerable.Range(from, to - from).Select(at => Node(values, at, source))]);
}
