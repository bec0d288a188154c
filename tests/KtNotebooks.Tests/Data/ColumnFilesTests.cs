using Apache.Arrow;
using Apache.Arrow.Ipc;
using Apache.Arrow.Types;

using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Data;

/// <summary>Rows of Parquet and Arrow files are those that JSON lines of the same content give, nested lists and nulls included.</summary>
public sealed class ColumnFilesTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    public sealed class Turn
    {
        public string? from { get; set; }

        public string? value { get; set; }
    }

    public sealed class Talk
    {
        public List<Turn>? conversations { get; set; }

        public bool? label { get; set; }

        public string? system { get; set; }
    }

    private static List<Talk> Talks => [.. Enumerable.Range(0, 7).Select(i => new Talk
    {
        conversations = [new Turn { from = "human", value = $"Frage {i}? 你好" }, new Turn { from = "gpt", value = $"answer {i}" }],
        label = i % 3 == 0 ? null : i % 2 == 0,
        system = i % 2 == 0 ? "Be kind." : null,
    })];

    [Theory]
    [InlineData("d.parquet")]
    [InlineData("d.arrow")]
    [InlineData("d.arrow", true)]
    public void Rows_are_those_of_json(string name, bool asFile = false)
    {
        using var batch = Table();
        var path = Path.Combine(_folder.Path, name);
        if (name == "d.parquet") WriteParquet(path, batch);
        else WriteArrow(path, batch, asFile);
        Compare(name);
    }

    [Fact]
    public void What_pandas_writes_is_read_as_JSON()
    {
        var batch = new RecordBatch.Builder()
            .Append("score", true, new DoubleArray.Builder().Append(0.5).Append(double.NaN).AppendNull().Build())
            .Append("share", true, new FloatArray.Builder().Append(0.1f).Append(2).Append(3).Build())
            .Append("count", true, new Int64Array.Builder().Append(long.MaxValue).Append(-1).Append(0).Build())
            .Append("day", true, new Date32Array.Builder().Append(new DateOnly(2026, 11, 29)).AppendNull().AppendNull().Build())
            .Append("kind", true, new DictionaryArray(new DictionaryType(Int8Type.Default, StringType.Default, false),
                new Int8Array.Builder().Append(1).Append(0).AppendNull().Build(), new StringArray.Builder().Append("a").Append("b").Build()))
            .Build();
        var path = Path.Combine(_folder.Path, "d.parquet");
        WriteParquet(path, batch);
        Assert.Equal([
            """{"score":0.5,"share":0.1,"count":9223372036854775807,"day":"2026-11-29","kind":"b"}""",
            """{"score":null,"share":2,"count":-1,"day":null,"kind":"a"}""",
            """{"score":null,"share":3,"count":0,"day":null,"kind":null}"""], RowReader.Read(path).Select(row => row.Fields.GetRawText()));
    }

    /// <summary>pandas writes up to a million rows as one row group. They arrive page by page, so those before a damaged page are read.</summary>
    [Fact]
    public void A_row_group_is_read_page_by_page()
    {
        const int Rows = 60_000; // 7 MB: several pages of 1 MB, many batches
        var random = new Random(1);
        var texts = new StringArray.Builder();
        string[] expected = [.. Enumerable.Range(0, Rows).Select(_ => string.Create(120, random, static (text, random) =>
        {
            foreach (ref var c in text) c = (char)random.Next('a', 'z' + 1);
        }))];
        foreach (var text in expected) texts.Append(text);
        using var batch = new RecordBatch.Builder().Append("text", true, texts.Build()).Build();
        var path = Path.Combine(_folder.Path, "d.parquet");
        WriteParquet(path, batch);
        Assert.Equal(expected, RowReader.Read(path).Select(row => row.Fields.GetProperty("text").GetString()));

        var bytes = File.ReadAllBytes(path);
        bytes.AsSpan(bytes.Length * 3 / 4, 4096).Fill(0xFF);
        File.WriteAllBytes(path, bytes);
        var read = 0;
        var error = Assert.Throws<InvalidDataException>(() =>
        {
            foreach (var _ in RowReader.Read(path)) read++;
        });
        Assert.InRange(read, Rows / 2, Rows * 3 / 4);
        Assert.StartsWith($"{path}: after row {read:N0} it is not valid Parquet (", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("d.parquet", "is not valid Parquet")]
    [InlineData("d.arrow", "is not valid Arrow")]
    public void A_damaged_file_is_named(string name, string message)
    {
        _folder.Write(name, "PAR1 this is a text and no table, however long it goes on");
        Info(name);
        var error = Assert.Throws<InvalidDataException>(() => DatasetLoader.Load(_folder.Path, "d"));
        Assert.StartsWith(Path.Combine(_folder.Path, name), error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    /// <summary>The talks as columns: lists of structs of texts, truths and texts with nulls.</summary>
    private static RecordBatch Table()
    {
        var (froms, values, labels, systems) = (new StringArray.Builder(), new StringArray.Builder(), new BooleanArray.Builder(), new StringArray.Builder());
        List<int> offsets = [0];
        foreach (var talk in Talks)
        {
            foreach (var turn in talk.conversations!)
            {
                froms.Append(turn.from);
                values.Append(turn.value);
            }
            offsets.Add(offsets[^1] + talk.conversations.Count);
            if (talk.label is { } label) labels.Append(label);
            else labels.AppendNull();
            systems.Append(talk.system);
        }
        var turns = new StructType([new Field("from", StringType.Default, true), new Field("value", StringType.Default, true)]);
        var items = new StructArray(turns, offsets[^1], [froms.Build(), values.Build()], ArrowBuffer.Empty);
        var list = new ListType(new Field("item", turns, true));
        var schema = new Schema([new Field("conversations", list, true), new Field("label", BooleanType.Default, true),
            new Field("system", StringType.Default, true)], null);
        var buffer = new ArrowBuffer.Builder<int>().AppendRange(offsets).Build();
        return new RecordBatch(schema, [new ListArray(list, Talks.Count, buffer, items, ArrowBuffer.Empty), labels.Build(), systems.Build()], Talks.Count);
    }

    private static void WriteArrow(string path, RecordBatch batch, bool asFile)
    {
        using var file = File.Create(path);
        using var writer = asFile ? new ArrowFileWriter(file, batch.Schema) : new ArrowStreamWriter(file, batch.Schema);
        writer.WriteRecordBatch(batch);
        writer.WriteEnd();
    }

    /// <summary>All rows in one row group, as pandas does it.</summary>
    private static void WriteParquet(string path, RecordBatch batch)
    {
        using var writer = new ParquetSharp.Arrow.FileWriter(path, batch.Schema);
        writer.WriteRecordBatch(batch, batch.Length);
        writer.Close();
    }

    private void Compare(string name)
    {
        _folder.Write("d.jsonl", string.Join('\n', Talks.Select(talk => System.Text.Json.JsonSerializer.Serialize(talk))));
        Info("d.jsonl");
        var expected = Texts();
        Info(name);
        Assert.Equal(expected, Texts());
        Assert.Equal($"{Path.Combine(_folder.Path, name)}:7", DatasetLoader.Load(_folder.Path, "d")[^1].Source);
        Assert.Equal(2, DatasetLoader.Load(_folder.Path, "d", maxSamples: 2).Count);
    }

    private void Info(string name) => _folder.Write("dataset_info.json", $$"""
        {"d": {"file_name": "{{name}}", "formatting": "sharegpt",
            "columns": {"messages": "conversations", "kto_tag": "label", "system": "system"} } }
        """.Replace("\"columns\": {", "\"tags\": {\"role_tag\": \"from\", \"content_tag\": \"value\", \"user_tag\": \"human\", \"assistant_tag\": \"gpt\"}, "
            + "\"columns\": {", StringComparison.Ordinal));

    private string[] Texts() => [.. DatasetLoader.Load(_folder.Path, "d").Select(e =>
        $"{e.System}|{string.Join('|', e.Prompt.Concat(e.Responses).Select(m => $"{m.Role}:{m.Content}"))}")];
}
