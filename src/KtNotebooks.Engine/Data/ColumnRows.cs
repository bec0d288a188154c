using System.Buffers;
using System.Globalization;
using System.Text.Json;

using Apache.Arrow;
using Apache.Arrow.Ipc;
using Apache.Arrow.Types;

using KtNotebooks.Files;

using ParquetSharp;
using ParquetSharp.Arrow;
using ParquetSharp.IO;

namespace KtNotebooks.Data;

/// <summary>
/// The rows of files that keep columns: .parquet, and .arrow as a stream (so Hugging Face's datasets keep their caches) or as a file with the ARROW1 mark.
/// A batch of rows at a time is in memory; lists and structs become what they are in JSON.
/// </summary>
internal static class ColumnRows
{
    /// <summary>
    /// Rows of a Parquet file that are read together. pandas writes a million rows as one row group: a reader that takes a whole group would need
    /// gigabytes before the first row, so pages are read as they are asked for.
    /// </summary>
    private const int ParquetBatch = 1024;

    /// <exception cref="InvalidDataException">Not Parquet, damaged, or columns of a kind that no row has.</exception>
    public static IEnumerable<Row> Parquet(string file)
    {
        using var stream = RegularFile.Open(file, "a data file");
        using var pages = new ManagedRandomAccessFile(stream);
        using var properties = ReaderProperties.GetDefaultReaderProperties();
        properties.EnableBufferedStream(); // pages through a buffer, not the columns of a whole row group
        using var batches = ArrowReaderProperties.GetDefault();
        (batches.PreBuffer, batches.BatchSize) = (false, ParquetBatch);
        using var reader = Guarded(() => new FileReader(pages, properties, batches), file, 0, "Parquet");
        using var rows = Guarded(() => reader.GetRecordBatchReader(), file, 0, "Parquet");
        foreach (var row in Read(rows, file, "Parquet")) yield return row;
    }

    /// <exception cref="InvalidDataException">Not Arrow, damaged, or columns of a kind that no row has.</exception>
    public static IEnumerable<Row> Arrow(string file)
    {
        using var stream = RegularFile.Open(file, "a data file");
        var magic = new byte[6];
        var isFile = stream.ReadAtLeast(magic, magic.Length, throwOnEndOfStream: false) == magic.Length && magic.AsSpan().SequenceEqual("ARROW1"u8);
        stream.Position = 0;
        using var reader = isFile ? new ArrowFileReader(stream) : new ArrowStreamReader(stream);
        foreach (var row in Read(reader, file, "Arrow")) yield return row;
    }

    private static IEnumerable<Row> Read(IArrowArrayStream batches, string file, string format)
    {
        var number = 0;
        var json = new ArrayBufferWriter<byte>();
        using var writer = new Utf8JsonWriter(json);
        while (Guarded(() => batches.ReadNextRecordBatchAsync().AsTask().GetAwaiter().GetResult(), file, number, format) is { } batch)
        {
            using (batch)
                for (var i = 0; i < batch.Length; i++)
                {
                    var source = $"{file}:{++number}";
                    json.ResetWrittenCount();
                    writer.Reset();
                    writer.WriteStartObject();
                    for (var c = 0; c < batch.ColumnCount; c++)
                    {
                        writer.WritePropertyName(batch.Schema.FieldsList[c].Name);
                        Write(writer, batch.Column(c), i, source);
                    }
                    writer.WriteEndObject();
                    writer.Flush();
                    var text = new Utf8JsonReader(json.WrittenSpan);
                    yield return new Row(JsonElement.ParseValue(ref text), source);
                }
        }
    }

    /// <summary>What a library says of a file that it cannot read, with the file's name.</summary>
    private static T Guarded<T>(Func<T> read, string file, int rows, string format)
    {
        try
        {
            return read();
        }
        catch (Exception error) when (error is DllNotFoundException or TypeInitializationException or BadImageFormatException)
        {
            throw new NotSupportedException($"{file}: {format} cannot be read on this machine ({(error.InnerException ?? error).Message.TrimEnd('.')}). "
                + "Write the rows as .jsonl, in Python: datasets.Dataset.from_parquet(FILE).to_json('rows.jsonl').", error);
        }
        catch (Exception error) when (error is not OutOfMemoryException)
        {
            throw new InvalidDataException($"{file}: after row {rows:N0} it is not valid {format} ({error.Message.TrimEnd('.')}). Download or write the "
                + "file again.", error);
        }
    }

    /// <summary>The value at <paramref name="i"/> of a column, as JSON has it.</summary>
    private static void Write(Utf8JsonWriter writer, IArrowArray column, int i, string source)
    {
        if (column.IsNull(i))
        {
            writer.WriteNullValue();
            return;
        }
        switch (column)
        {
            case StringArray texts: writer.WriteStringValue(texts.GetBytes(i)); break;
            case LargeStringArray texts: writer.WriteStringValue(texts.GetBytes(i)); break;
            case StringViewArray texts: writer.WriteStringValue(texts.GetBytes(i)); break;
            case BooleanArray truths: writer.WriteBooleanValue(truths.GetValue(i)!.Value); break;
            case Int8Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case Int16Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case Int32Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case Int64Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case UInt8Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case UInt16Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case UInt32Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case UInt64Array numbers: writer.WriteNumberValue(numbers.Values[i]); break;
            case HalfFloatArray numbers when Half.IsFinite(numbers.Values[i]): writer.WriteNumberValue((float)numbers.Values[i]); break;
            case FloatArray numbers when float.IsFinite(numbers.Values[i]): writer.WriteNumberValue(numbers.Values[i]); break;
            case DoubleArray numbers when double.IsFinite(numbers.Values[i]): writer.WriteNumberValue(numbers.Values[i]); break;
            case HalfFloatArray or FloatArray or DoubleArray: writer.WriteNullValue(); break; // pandas' NaN: no value
            case Decimal128Array numbers: writer.WriteNumberValue(numbers.GetValue(i)!.Value); break;
            case TimestampArray times: writer.WriteStringValue(times.GetTimestamp(i)!.Value.ToString("O", CultureInfo.InvariantCulture)); break;
            case Date32Array days: writer.WriteStringValue(days.GetDateTime(i)!.Value.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture)); break;
            case DictionaryArray words: Write(writer, words.Dictionary, (int)Index(words.Indices, i), source); break;
            case StructArray fields:
                writer.WriteStartObject();
                var names = ((StructType)fields.Data.DataType).Fields;
                for (var f = 0; f < names.Count; f++)
                {
                    writer.WritePropertyName(names[f].Name);
                    Write(writer, fields.Fields[f], i, source);
                }
                writer.WriteEndObject();
                break;
            case MapArray map:
                writer.WriteStartObject();
                for (var at = map.ValueOffsets[i]; at < map.ValueOffsets[i + 1]; at++)
                {
                    writer.WritePropertyName(Text(map.Keys, at));
                    Write(writer, map.Values, at, source);
                }
                writer.WriteEndObject();
                break;
            case ListArray list: WriteItems(writer, list.Values, list.ValueOffsets[i], list.ValueOffsets[i + 1], source); break;
            case LargeListArray list: WriteItems(writer, list.Values, (int)list.ValueOffsets[i], (int)list.ValueOffsets[i + 1], source); break;
            case FixedSizeListArray list:
                var width = ((FixedSizeListType)list.Data.DataType).ListSize;
                WriteItems(writer, list.Values, (list.Offset + i) * width, (list.Offset + i + 1) * width, source);
                break;
            default:
                throw new InvalidDataException($"{source}: a column is of Arrow's type {column.Data.DataType.Name}; a data set's columns are texts, "
                    + "numbers, and lists and structs of them.");
        }
    }

    private static void WriteItems(Utf8JsonWriter writer, IArrowArray values, int from, int to, string source)
    {
        writer.WriteStartArray();
        for (var at = from; at < to; at++) Write(writer, values, at, source);
        writer.WriteEndArray();
    }

    private static long Index(IArrowArray indices, int i) => indices switch
    {
        Int8Array numbers => numbers.Values[i],
        Int16Array numbers => numbers.Values[i],
        Int32Array numbers => numbers.Values[i],
        UInt8Array numbers => numbers.Values[i],
        UInt16Array numbers => numbers.Values[i],
        UInt32Array numbers => numbers.Values[i],
        _ => ((Int64Array)indices).Values[i],
    };

    private static string Text(IArrowArray keys, int i) => keys switch
    {
        StringArray texts => texts.GetString(i),
        _ => ((LargeStringArray)keys).GetString(i),
    };
}
