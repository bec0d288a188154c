using KtNotebooks.Course.Synthetic;
using Xunit;

namespace KtNotebooks.Tests.Course.Synthetic;

public sealed class KnowledgeBaseTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("kt-tables-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private KnowledgeBase Load(string table, string name = "animals.yaml")
    {
        File.WriteAllText(Path.Combine(_folder, name), table);
        return KnowledgeBase.Load(_folder);
    }

    private const string Sound = """
        columns: 动物 | animal | sound
        facts: |
          猫 | cat | meow
          猫头鹰 | owl | -
        relations:
          sound:
            en:
              ask: |
                What does {a:animal} say?
              answer: |
                {A:animal} says "{sound}".
          name:
            en:
              ask: |
                Is that {a:animal}?
              answer: |
                Yes, that is {a:animal}.
        """;

    [Fact]
    public void A_row_and_a_wording_make_a_fact()
    {
        var fact = Load(Sound).Facts.Single(fact => fact.Id == "animals/猫/sound");
        Assert.Equal(["What does a cat say?"], fact.Questions);
        Assert.Equal(["A cat says \"meow\"."], fact.Answers);
        Assert.Equal("animals/猫", fact.Entity);
        Assert.Equal("animals/sound", fact.Group);
        Assert.Equal(Language.English, fact.Language);
    }

    [Fact]
    public void A_missing_cell_leaves_out_only_what_needs_it()
    {
        var ids = Load(Sound).Facts.Select(fact => fact.Id).ToArray();
        Assert.DoesNotContain("animals/猫头鹰/sound", ids);
        Assert.Contains("animals/猫头鹰/name", ids);
    }

    [Fact]
    public void The_article_follows_the_sound_of_the_noun() =>
        Assert.Equal(["Is that an owl?"], Load(Sound).Facts.Single(fact => fact.Id == "animals/猫头鹰/name").Questions);

    [Fact]
    public void A_row_of_wrong_length_is_named()
    {
        var error = Assert.Throws<InvalidDataException>(() => Load(Sound.Replace("| owl | -", "| owl")));
        Assert.Contains("animals.yaml", error.Message);
        Assert.Contains("row '猫头鹰 | owl' has 2 cells, expected 3", error.Message);
    }

    [Fact]
    public void A_template_with_an_unknown_column_is_named()
    {
        var error = Assert.Throws<InvalidDataException>(() => Load(Sound.Replace("{sound}", "{noise}")));
        Assert.Contains("'noise'", error.Message);
        Assert.Contains("动物, animal, sound", error.Message);
    }

    [Fact]
    public void A_misspelt_key_is_named_with_its_line()
    {
        var error = Assert.Throws<InvalidDataException>(() => Load(Sound.Replace("    ask:", "    asks:")));
        Assert.Contains("animals.yaml, line 8", error.Message);
        Assert.Contains("asks", error.Message);
    }

    [Fact]
    public void One_question_with_two_owners_is_refused()
    {
        Load(Sound);
        var error = Assert.Throws<InvalidDataException>(() => Load(Sound, "beasts.yaml"));
        Assert.Contains("'What does a cat say?' is asked by animals/猫/sound and by beasts/猫/sound", error.Message);
    }

    [Fact]
    public void A_folder_that_is_not_there_is_named() =>
        Assert.Contains("--source", Assert.Throws<DirectoryNotFoundException>(() => KnowledgeBase.Load(Path.Combine(_folder, "none"))).Message);

    [Theory]
    [InlineData("What is 3 + 5?", "what is 3+5")]
    [InlineData("“大”的反义词是什么？", "大的反义词是什么")]
    public void Normal_drops_case_spaces_and_punctuation_but_keeps_signs(string question, string same) =>
        Assert.Equal(KnowledgeBase.Normal(question), KnowledgeBase.Normal(same));

    [Fact]
    public void A_sum_and_a_difference_stay_different_questions() =>
        Assert.NotEqual(KnowledgeBase.Normal("8 + 5 的结果是多少？"), KnowledgeBase.Normal("8 - 5 的结果是多少？"));

    [Fact]
    public void Arithmetic_is_right()
    {
        var facts = KnowledgeBase.Load().Facts.Where(fact => fact.Group == "arithmetic/product" && fact.Language == Language.English).ToArray();
        Assert.Equal(81, facts.Length);
        Assert.All(facts, fact =>
        {
            var terms = fact.Answers[^1].Split(' ');   // "7 × 8 = 56."
            Assert.Equal(int.Parse(terms[4].TrimEnd('.')), int.Parse(terms[0]) * int.Parse(terms[2]));
        });
    }
}
