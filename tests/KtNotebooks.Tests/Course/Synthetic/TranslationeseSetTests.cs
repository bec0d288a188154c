using System.Security.Cryptography;
using KtNotebooks.Course;
using KtNotebooks.Course.Synthetic;
using KtNotebooks.Data;
using Xunit;

namespace KtNotebooks.Tests.Course.Synthetic;

public sealed class TranslationeseSetTests
{
    private static readonly KnowledgeBase Knowledge = KnowledgeBase.Load();
    private static readonly (IReadOnlyList<QaRow> Train, IReadOnlyList<QaRow> Test) Set = TranslationeseSet.Make(Knowledge);
    private static readonly QaRow[] All = [.. Set.Train, .. Set.Test];
    private static readonly Dictionary<string, Fact> Facts = Knowledge.Facts.Where(f => f.Language == Language.Chinese)
        .SelectMany(f => f.Questions.Select(q => (q, f))).ToDictionary(p => p.q, p => p.f);

    private static string Datasets => Path.GetDirectoryName(Knowledge.Folder)!;

    [Theory]
    [InlineData(TranslationeseSet.TrainFile)]
    [InlineData(TranslationeseSet.TestFile)]
    public void Committed_files_are_what_the_generator_writes(string file)
    {
        var rows = file == TranslationeseSet.TrainFile ? Set.Train : Set.Test;
        Assert.True(File.ReadAllText(Path.Combine(Datasets, file)) == QaRow.ToJsonArray(rows),
            $"datasets/{file} differs from what the tables give; run: kt data make translationese --out datasets");
        Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(Path.Combine(Datasets, file)))),
            File.ReadAllText(Path.Combine(Datasets, "README.md")));
    }

    [Fact]
    public void Rows_have_the_real_sets_columns()
    {
        Assert.Equal((TranslationeseSet.TrainRows, TranslationeseSet.TestRows), (Set.Train.Count, Set.Test.Count));
        Assert.All(All, row => Assert.StartsWith("""{"instruction":"","input":""", row.ToJson()));
    }

    [Fact]
    public void No_question_or_entity_is_in_both_files()
    {
        Assert.Equal(All.Length, All.Select(row => KnowledgeBase.Normal(row.Input!)).Distinct().Count());
        Assert.Empty(Set.Train.Select(row => Facts[row.Input!].Entity).Intersect(Set.Test.Select(row => Facts[row.Input!].Entity)));
    }

    [Fact]
    public void Every_answer_holds_the_plain_one_word_for_word_behind_an_opening() => Assert.All(All, row =>
    {
        Assert.Contains(Facts[row.Input!].Answers,
            answer => row.Output.Contains(answer, StringComparison.Ordinal) && !row.Output.StartsWith(answer, StringComparison.Ordinal));
        Assert.True(row.Output.Length <= TranslationeseStyle.MaxChars, row.Output);
    });

    [Fact]
    public void The_style_is_varied() =>
        Assert.True(All.Select(row => row.Output).Distinct().Count() == All.Length && Set.Train.Select(row => row.Output[..4]).Distinct().Count() >= 15);

    [Fact]
    public void They_load_by_name_as_alpaca_rows()
    {
        var examples = DatasetLoader.Load(Datasets, "translationese_train,translationese_test");
        Assert.Equal(All.Select(row => (row.Input, row.Output)), examples.Select(e => ((string?)e.Prompt[0].Content, e.Answer)));
    }
}
