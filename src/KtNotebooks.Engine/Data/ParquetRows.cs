using System.Collections;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

using Parquet;
using Parquet.Serialization;

namespace KtNotebooks.Data;

/// <summary>The rows of a .parquet file, of which one row group at a time is in memory; lists and structs become what they are in JSON.</summary>
internal static class ParquetRows
{
    /// <exception cref="InvalidDataException">Not Parquet, or damaged; file and row group are named.</exception>
    public static IEnumerable<Row> Read(string file)
    {
        var (number, groups) = (0, Guarded(file, "its footer", () => Groups(file)));
        for (var group = 0; group < groups; group++)
        {
            foreach (var fields in Guarded(file, $"row group {group + 1} of {groups}", () => Group(file, group)))
                yield return new Row(JsonSerializer.SerializeToElement(Node(fields, $"{file}:{++number}")), $"{file}:{number}");
        }
    }

    private static int Groups(string file)
    {
        using var stream = RegularFile.Open(file, "a data file");
        var reader = ParquetReader.CreateAsync(stream).GetAwaiter().GetResult();
        var count = reader.RowGroupCount;
        reader.DisposeAsync().AsTask().GetAwaiter().GetResult();
        return count;
    }

    private static IReadOnlyList<IDictionary> Group(string file, int group)
    {
        using var stream = RegularFile.Open(file, "a data file");
        return [.. ParquetSerializer.DeserializeUntypedAsync(stream, rowGroupIndex: group).GetAwaiter().GetResult().Data];
    }

    private static JsonNode? Node(object? value, string source) => value switch
    {
        null => null,
        string text => JsonValue.Create(text),
        bool truth => JsonValue.Create(truth),
        double or float => JsonValue.Create(Convert.ToDouble(value, System.Globalization.CultureInfo.InvariantCulture)),
        byte or sbyte or short or ushort or int or uint or long => JsonValue.Create(Convert.ToInt64(value, System.Globalization.CultureInfo.InvariantCulture)),
        ulong or decimal => JsonValue.Create(Convert.ToDecimal(value, System.Globalization.CultureInfo.InvariantCulture)),
        DateTime time => JsonValue.Create(time),
        byte[] => throw new InvalidDataException($"{source}: holds bytes; a data set's columns are texts, numbers, and lists and structs of them."),
        IDictionary map => new JsonObject(map.Keys.Cast<object>().Select(key => KeyValuePair.Create(key.ToString()!, Node(map[key], source)))),
        IEnumerable list => new JsonArray([.. list.Cast<object?>().Select(item => Node(item, source))]),
        _ => JsonValue.Create(value.ToString()),
    };

    /// <summary>What the library says of a file that it cannot read, with the file's name.</summary>
    private static T Guarded<T>(string file, string what, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (Exception error) when (error is not (OutOfMemoryException or FileNotFoundException))
        {
            throw new InvalidDataException($"{file}: {what} is not valid Parquet ({error.Message.TrimEnd('.')}). Download or write the file again.", error);
        }
    }
}
