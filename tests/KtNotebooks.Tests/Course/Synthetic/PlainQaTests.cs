using System.Text.Json;
using KtNotebooks.Course;
using KtNotebooks.Course.Synthetic;
using Xunit;

namespace KtNotebooks.Tests.Course.Synthetic;

public sealed class PlainQaTests
{
    private static readonly KnowledgeBase Knowledge = KnowledgeBase.Load();
    private static readonly PlainQa Plain = new(Knowledge);

    [Theory]
    [InlineData(Language.Chinese)]
    [InlineData(Language.English)]
    public void There_are_enough_facts_and_rows(Language language)
    {
        Assert.True(Knowledge.Facts.Count(fact => fact.Language == language && !fact.Group.StartsWith("arithmetic/", StringComparison.Ordinal)) >= 700);
        Assert.True(Plain.CountDistinct(language) >= 10_000);
    }

    [Fact]
    public void Most_facts_are_asked_in_three_ways()
    {
        var many = Knowledge.Facts.Count(fact => fact.Questions.Count >= 3);
        Assert.True(many >= Knowledge.Facts.Count * 8 / 10, $"{many} of {Knowledge.Facts.Count}");
    }

    [Fact]
    public void Same_seed_same_rows() => Assert.Equal(Json(Plain.Take(2_000, 7)), Json(new PlainQa(KnowledgeBase.Load()).Take(2_000, 7)));

    [Fact]
    public void Another_seed_other_rows() => Assert.NotEqual(Json(Plain.Take(50, 7)), Json(Plain.Take(50, 8)));

    [Fact]
    public void Taken_rows_are_distinct()
    {
        var rows = Json(Plain.Take(24_000, 1));
        Assert.Equal(24_000, rows.Distinct().Count());
    }

    [Fact]
    public void Every_fact_is_met_early()
    {
        var facts = Knowledge.Facts.Where(fact => !fact.Group.StartsWith("arithmetic/", StringComparison.Ordinal)).ToArray();
        // A lead-in may stand before a question, so every tail of what was asked counts.
        var seen = Plain.Stream(3).Take(facts.Length * 3 / 2).Select(row => KnowledgeBase.Normal(row.Instruction))
            .SelectMany(asked => Enumerable.Range(0, asked.Length).Select(start => asked[start..])).ToHashSet();
        var missing = facts.Where(fact => !fact.Questions.Any(question => seen.Contains(KnowledgeBase.Normal(question))));
        Assert.Empty(missing.Select(fact => fact.Id));
    }

    /// <summary>Facts of few phrasings, told round by round, come at the beginning of a cycle alone: a loss jumps when the next begins.</summary>
    [Theory]
    [InlineData(true, 0.7)]
    [InlineData(false, 0.1)]
    public void Even_rows_are_alike_everywhere(bool even, double least)
    {
        var facts = Knowledge.Facts.Where(fact => !fact.Group.StartsWith("arithmetic/", StringComparison.Ordinal)).ToArray();
        int Variants(Fact fact) => fact.Questions.Count * fact.Answers.Count * (1 + fact.More.Count);
        var few = facts.OrderBy(Variants).Take(facts.Length / 3).SelectMany(fact => fact.Questions).ToHashSet();
        var cycle = facts.Sum(Variants) * 1000 / 704; // 0.92 · 0.9 · 0.85 of the rows: between them stand chats, recitals and sums
        int[] counts = [.. Plain.Stream(3, even).Take(cycle).Chunk(cycle / 4).Take(4).Select(rows => rows.Count(row => few.Contains(row.Instruction)))];
        Assert.Equal(even, counts.Min() > least * counts.Max());
        if (!even) Assert.True(counts[^1] < least * counts[0], string.Join(' ', counts));
    }

    [Fact]
    public void Rows_are_whole_sentences_of_a_modest_length()
    {
        foreach (var row in Plain.Take(20_000, 2).Where(row => !IsRecital(row)))
        {
            Assert.True(row.Instruction.Length is > 1 and <= 110, row.Instruction);
            Assert.True(row.Output.Length is > 1 and <= 170, row.Output);
            Assert.True("。！？.!?”".Contains(row.Output[^1]), row.Output);
            Assert.DoesNotContain('{', row.Instruction + row.Output);
            Assert.DoesNotContain("  ", row.Instruction + row.Output);
            Assert.DoesNotContain("。。", row.Output);
            Assert.DoesNotContain("..", row.Output);
            Assert.Equal(row.Output.Count(c => c == '“'), row.Output.Count(c => c == '”'));
        }
    }

    [Fact]
    public void Recitals_are_said_back_and_hold_no_whole_style_piece()
    {
        var recitals = Plain.Take(5_000, 5).Where(IsRecital).ToArray();
        Assert.InRange(recitals.Length, 300, 700);
        var actions = File.ReadLines(Path.Combine(Knowledge.Folder, NekoSet.StyleFile)).Select(line => line.Trim())
            .Where(line => line.StartsWith('*') && line.Length > 6).ToArray();
        Assert.NotEmpty(actions);
        Assert.All(recitals, row => Assert.DoesNotContain(actions, row.Output.Contains));
    }

    [Fact]
    public void No_key_of_a_table_reaches_the_text()
    {
        string[] tables = [.. Knowledge.Facts.Select(fact => fact.Entity[..(fact.Entity.IndexOf('/') + 1)]).Distinct()];
        Assert.Contains("smalltalk/", tables);
        foreach (var row in Plain.Stream(6).Take(40_000))
        {
            var text = row.Instruction + row.Output + string.Concat((row.History ?? []).SelectMany(turn => turn));
            Assert.False(text.Contains('/') && tables.Any(text.Contains), text);
            Assert.DoesNotContain('_', text);
        }
    }

    [Fact]
    public void Chats_carry_one_earlier_turn()
    {
        var chats = Plain.Take(5_000, 4).Where(row => row.History is not null).ToArray();
        Assert.InRange(chats.Length, 250, 600);
        Assert.All(chats, row => Assert.Equal(2, Assert.Single(row.History!).Length));
        Assert.Contains(chats, row => row.Instruction.StartsWith('那'));
    }

    private static bool IsRecital(QaRow row) => row.Instruction.EndsWith(row.Output, StringComparison.Ordinal);

    [Fact]
    public void Json_has_the_alpaca_keys_and_readable_chinese()
    {
        Assert.Equal("""{"instruction":"猫怎么叫？","output":"“喵喵”。"}""", new QaRow("猫怎么叫？", "“喵喵”。").ToJson());
        using var chat = JsonDocument.Parse(Plain.Stream(4).First(row => row.History is not null).ToJson());
        Assert.Equal(["instruction", "output", "history"], chat.RootElement.EnumerateObject().Select(member => member.Name));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(10_000_000)]
    public void More_rows_than_there_are_is_an_error(int count) =>
        Assert.Contains("the number of different rows", Assert.Throws<ArgumentException>(() => Plain.Take(count, 1)).Message);

    private static string[] Json(IEnumerable<QaRow> rows) => [.. rows.Select(row => row.ToJson())];
}
