using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Data;

public class SftEncoderTests
{
    private const int Ignore = SftEncoder.Ignore;

    private static readonly Tokenizer Small = Samples.Small;
    private static readonly Template DeepSeek = Templates.Get("deepseek");

    // A template of GLM's kind; none of this kind is in the table yet.
    private static readonly Template Efficient = new()
    {
        Name = "efficient",
        User = [Slot.Named("<｜User｜>"), Slot.Content],
        Assistant = [Slot.Content],
        EfficientEos = true,
    };

    // Measured with LLaMA-Factory's own function (reference, section 2.3).
    [Theory]
    [InlineData(100, 50, 2048, 100, 50)]
    [InlineData(3000, 100, 2048, 1948, 100)]
    [InlineData(100, 3000, 2048, 100, 1948)]
    [InlineData(3000, 1000, 2048, 1048, 1000)]
    [InlineData(3000, 3000, 2048, 1024, 1024)]
    [InlineData(2000, 1200, 2048, 1280, 768)]
    [InlineData(1023, 1025, 2048, 1023, 1025)]
    [InlineData(10, 10, 8, 4, 4)]
    public void Question_and_answer_share_the_room_as_upstream(int source, int target, int cutoff, int keptSource, int keptTarget) =>
        Assert.Equal((keptSource, keptTarget), SftEncoder.Allocate(source, target, cutoff));

    [Fact]
    public void Only_the_answer_and_its_end_are_learned()
    {
        var example = Row("主人，今天天气", "真好喵~");
        var encoded = new SftEncoder(DeepSeek, Small).Encode(example);
        int[] source = [Small.BosId!.Value, .. Small.Encode("User: 主人，今天天气\n\nAssistant:")];
        int[] target = [.. Small.Encode("真好喵~"), Small.EosId!.Value];
        Assert.Equal([.. source, .. target], encoded.Ids);
        Assert.Equal([.. Enumerable.Repeat(Ignore, source.Length), .. target], encoded.Labels);
        Assert.Equal(target.Length, encoded.Targets);
        Assert.Equal("test:1", encoded.Source);
    }

    [Fact]
    public void The_prompt_is_learned_when_asked_for()
    {
        var encoded = new SftEncoder(DeepSeek, Small, trainOnPrompt: true).Encode(Row("a", "b"));
        Assert.Equal(encoded.Ids, encoded.Labels);
    }

    // Turns of (source, target) lengths; the labels show what is learned: s source, t target, . not learned.
    [Theory]
    [InlineData(false, 100, "..tt...tttt")]
    [InlineData(true, 100, ".......tttt")]
    [InlineData(false, 6, "..tt.t")] // the second turn has room for 2 of its 7: 3 and 4 share it in proportion
    [InlineData(true, 6, "...ttt")] // the last turn is served first, and fills the row
    [InlineData(false, 4, "..tt")]
    public void Turns_are_cut_and_masked_as_upstream(bool maskHistory, int cutoff, string expected)
    {
        var encoder = new SftEncoder(DeepSeek, Small, cutoff, maskHistory: maskHistory);
        var (ids, labels) = encoder.Assemble([([1, 2], [3, 4]), ([5, 6, 7], [8, 9, 10, 11])]);
        Assert.Equal(expected, string.Concat(labels.Select(l => l == Ignore ? '.' : 't')));
        Assert.All(ids.Zip(labels), p => Assert.True(p.Second == Ignore || p.Second == p.First));
    }

    [Fact]
    public void A_cut_keeps_the_head_and_loses_the_end_token()
    {
        var encoded = new SftEncoder(DeepSeek, Small, cutoffLength: 12).Encode(Row("abcdefgh ijkl", "zyxwvuts rqpo"));
        Assert.Equal(12, encoded.Ids.Length);
        Assert.Equal(Small.BosId, encoded.Ids[0]);
        Assert.DoesNotContain(Small.EosId!.Value, encoded.Ids);
    }

    [Fact]
    public void A_row_with_a_picture_is_refused_by_column_and_template()
    {
        var row = Row("What is this?", "A cat.") with { Media = "column 'images' holds 1 value" };
        const string Expected = "test:1: column 'images' holds 1 value, but the template 'deepseek' is text only";
        var encoder = new SftEncoder(DeepSeek, Small);
        var cancel = TestContext.Current.CancellationToken;
        Assert.StartsWith(Expected, Assert.Throws<InvalidDataException>(() => encoder.EncodeAll([Row("a", "b"), row], cancel)).Message);
        Assert.StartsWith(Expected, Assert.Throws<InvalidDataException>(() => encoder.EncodePrompt(row)).Message);
    }

    [Fact]
    public void The_end_of_an_answer_of_which_nothing_is_left_is_not_learned()
    {
        var (ids, labels) = new SftEncoder(Efficient, Small, cutoffLength: 4).Assemble([([10, 11, 12, 13, 14, 15, 16, 17], [18, 19])]);
        Assert.Equal([10, 11, 12, Small.EosId!.Value], ids);
        Assert.All(labels, label => Assert.Equal(Ignore, label));
    }

    [Fact]
    public void With_efficient_eos_the_next_turn_teaches_the_end()
    {
        var (ids, labels) = new SftEncoder(Efficient, Small).Assemble([([10, 11], [12]), ([13, 14], [15])]);
        var eos = Small.EosId!.Value;
        Assert.Equal([10, 11, 12, 13, 14, 15, eos], ids);
        Assert.Equal([Ignore, Ignore, 12, eos, Ignore, 15, eos], labels);
    }

    [Fact]
    public void The_order_of_rows_is_kept()
    {
        Example[] examples = [.. Enumerable.Range(0, 500).Select(i => Row($"q {i}", $"a {i}", $"test:{i + 1}"))];
        var encoder = new SftEncoder(DeepSeek, Small);
        var all = encoder.EncodeAll(examples, TestContext.Current.CancellationToken);
        Assert.Equal(examples.Select(e => e.Source), all.Select(e => e.Source));
        Assert.Equal(encoder.Encode(examples[321]).Ids, all[321].Ids);
    }

    [Fact]
    public void A_row_without_an_answer_is_named()
    {
        Example[] examples = [Row("a", "b"), Row("c", null, "data.json:7"), Row("d", null, "data.json:9")];
        var error = Assert.Throws<InvalidDataException>(() => new SftEncoder(DeepSeek, Small).EncodeAll(examples, TestContext.Current.CancellationToken));
        Assert.StartsWith("data.json:7:", error.Message);
    }

    [Fact]
    public void The_prompt_of_a_row_is_what_training_saw()
    {
        var example = Row("主人", "喵") with { Prompt = [new(Role.User, "a"), new(Role.Assistant, "b"), new(Role.User, "c")], System = "s" };
        var encoder = new SftEncoder(DeepSeek, Small);
        var (prompt, answer) = encoder.EncodePrompt(example);
        Assert.Equal<int>([.. prompt, .. answer], encoder.Encode(example).Ids);
        Assert.Empty(encoder.EncodePrompt(example with { Responses = [] }).Answer);
    }

    [Fact]
    public void Settings_that_exclude_each_other_are_refused()
    {
        Assert.Contains("mask_history",
            Assert.Throws<ArgumentException>(() => new SftEncoder(DeepSeek, Small, trainOnPrompt: true, maskHistory: true)).Message);
        Assert.Contains("efficient", Assert.Throws<ArgumentException>(() => new SftEncoder(Efficient, Small, trainOnPrompt: true)).Message);
        Assert.Contains("cutoff_len is 1", Assert.Throws<ArgumentException>(() => new SftEncoder(DeepSeek, Small, 1)).Message);
    }

    [Fact]
    public void The_report_shows_ids_text_and_labels()
    {
        var report = FirstExampleReport.Of(new SftEncoder(DeepSeek, Small).Encode(Row("你好", "喵")), Small);
        Assert.Contains("\ninputs:\n<｜begin▁of▁sentence｜>User: 你好\n\nAssistant:喵<｜end▁of▁sentence｜>\n", report);
        Assert.EndsWith("\nlabels:\n喵<｜end▁of▁sentence｜>\n", report);
        Assert.Contains("label_ids:\n[-100, -100", report);
    }

    private static Example Row(string question, string? answer, string source = "test:1") =>
        new([new Message(Role.User, question)], answer is null ? [] : [new Message(Role.Assistant, answer)], null, null, source);
}
