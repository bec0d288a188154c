using Apache.Arrow;
using Apache.Arrow.Ipc;
using Apache.Arrow.Types;

using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;

using Parquet.Serialization;

using Xunit;

namespace KtNotebooks.Tests.Data;

/// <summary>Rows of Parquet and Arrow files are those that JSON lines of the same content give, nested lists and nulls included.</summary>
public sealed class ColumnFilesTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

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

    [Fact]
    public async Task Parquet_rows_are_those_of_json()
    {
        var path = Path.Combine(_folder.Path, "d.parquet");
        await using (var file = File.Create(path)) await ParquetSerializer.SerializeAsync(Talks, file, cancellationToken: Stop);
        Compare("d.parquet");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Arrow_rows_are_those_of_json(bool asFile)
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
        using var batch = new RecordBatch(schema, [new ListArray(list, 7, buffer, items, ArrowBuffer.Empty), labels.Build(), systems.Build()], 7);
        using (var file = File.Create(Path.Combine(_folder.Path, "d.arrow")))
        using (var writer = asFile ? new ArrowFileWriter(file, schema) : new ArrowStreamWriter(file, schema))
        {
            writer.WriteRecordBatch(batch);
            writer.WriteEnd();
        }
        Compare("d.arrow");
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
