using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using KtNotebooks.Course;
using KtNotebooks.Course.Synthetic;
using Xunit;

namespace KtNotebooks.Tests.Course.Synthetic;

public sealed class NekoSetTests
{
    private static readonly KnowledgeBase Knowledge = KnowledgeBase.Load();
    private static readonly (IReadOnlyList<QaRow> Train, IReadOnlyList<QaRow> Test) Set = NekoSet.Make(Knowledge);
    private static readonly QaRow[] All = [.. Set.Train, .. Set.Test];

    private static string Datasets => Path.GetDirectoryName(Knowledge.Folder)!;

    [Fact]
    public void Committed_files_are_what_the_generator_writes()
    {
        var folder = Directory.CreateTempSubdirectory("kt-neko-").FullName;
        try
        {
            NekoSet.Write(Knowledge, folder);
            foreach (var file in new[] { NekoSet.TrainFile, NekoSet.TestFile })
                Assert.True(File.ReadAllBytes(Path.Combine(folder, file)).AsSpan().SequenceEqual(File.ReadAllBytes(Path.Combine(Datasets, file))),
                    $"datasets/{file} differs from what the tables give; run: kt data make neko --out datasets");
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void Counts_are_as_promised()
    {
        Assert.Equal(NekoSet.TrainRows, Set.Train.Count);
        Assert.Equal(NekoSet.TestRows, Set.Test.Count);
    }

    [Fact]
    public void No_question_occurs_twice_in_or_across_the_files() =>
        Assert.Equal(All.Length, All.Select(row => KnowledgeBase.Normal(row.Instruction)).Distinct().Count());

    [Fact]
    public void No_entity_is_in_both_files()
    {
        var owner = Knowledge.Facts.Where(fact => fact.Language == Language.Chinese)
            .SelectMany(fact => fact.Questions.Select(question => (question, fact.Entity))).ToDictionary(pair => pair.question, pair => pair.Entity);
        Assert.Empty(Set.Train.Select(row => owner[row.Instruction]).Intersect(Set.Test.Select(row => owner[row.Instruction])));
    }

    [Fact]
    public void Every_answer_is_the_plain_one_in_style()
    {
        var facts = Knowledge.Facts.Where(fact => fact.Language == Language.Chinese)
            .SelectMany(fact => fact.Questions.Select(question => (question, fact))).ToDictionary(pair => pair.question, pair => pair.fact);
        foreach (var row in All)
        {
            var fact = facts[row.Instruction];
            var answers = fact.NekoAnswers.Count > 0 ? fact.NekoAnswers : fact.Answers;
            Assert.True(answers.Any(answer => row.Output.Contains(answer.TrimEnd('。'), StringComparison.Ordinal)), row.ToJson());
        }
    }

    [Fact]
    public void Every_answer_has_the_style_and_a_length()
    {
        foreach (var row in All)
        {
            Assert.Contains('喵', row.Output);
            Assert.Contains("主人", row.Output);
            Assert.InRange(row.Output.Length, 15, 80);
        }
    }

    [Fact]
    public void Marks_and_quotes_are_balanced()
    {
        foreach (var row in All)
        {
            Assert.True(row.Output.Count(c => c == '*') % 2 == 0, row.Output);
            foreach (var (open, close) in new[] { ('“', '”'), ('（', '）'), ('《', '》') })
                Assert.True(row.Output.Count(c => c == open) == row.Output.Count(c => c == close), row.Output);
            Assert.DoesNotContain("**", row.Output);
        }
    }

    [Fact]
    public void The_style_is_varied()
    {
        var openings = Set.Train.Where(row => row.Output[0] == '*').Select(row => row.Output[..(row.Output.IndexOf('*', 1) + 1)]).ToArray();
        Assert.True(openings.Distinct().Count() >= 40);
        Assert.InRange(openings.Length, Set.Train.Count * 3 / 4, Set.Train.Count);
        Assert.Equal(All.Length, All.Select(row => row.Output).Distinct().Count());
    }

    [Fact]
    public void Files_are_clean_utf8_with_exactly_two_keys()
    {
        var strict = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
        foreach (var file in new[] { NekoSet.TrainFile, NekoSet.TestFile })
        {
            var bytes = File.ReadAllBytes(Path.Combine(Datasets, file));
            Assert.Equal((byte)'[', bytes[0]);
            var text = strict.GetString(bytes);
            Assert.DoesNotContain('\r', text);
            Assert.DoesNotContain('\uFFFD', text);
            Assert.DoesNotContain("\\u", text);
            using var json = JsonDocument.Parse(text);
            Assert.All(json.RootElement.EnumerateArray(), row =>
            {
                Assert.Equal(["instruction", "output"], row.EnumerateObject().Select(member => member.Name));
                Assert.All(row.EnumerateObject(), member => Assert.False(string.IsNullOrWhiteSpace(member.Value.GetString())));
            });
        }
    }

    [Fact]
    public void Dataset_info_names_files_that_are_there_or_are_the_users_to_fetch()
    {
        using var info = JsonDocument.Parse(File.ReadAllText(Path.Combine(Datasets, "dataset_info.json")));
        var files = info.RootElement.EnumerateObject().ToDictionary(entry => entry.Name, entry => entry.Value.GetProperty("file_name").GetString()!);
        string[] ours = ["neko_qa", "neko_qa_train", "neko_qa_test"];
        Assert.All(ours, name => Assert.True(File.Exists(Path.Combine(Datasets, files[name])), files[name]));
        Assert.Equal("NekoQA-10K.json", files["NekoQA-10K"]);
        Assert.Equal("TslDial.json", files["TslDial"]);
    }

    [Fact]
    public void The_readme_states_the_hashes_of_the_files()
    {
        var readme = File.ReadAllText(Path.Combine(Datasets, "README.md"));
        foreach (var file in new[] { NekoSet.TrainFile, NekoSet.TestFile })
            Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(Path.Combine(Datasets, file)))), readme);
    }

    [Fact]
    public void No_row_is_taken_from_the_real_set()
    {
        var real = Path.GetFullPath(Path.Combine(Datasets, "..", "..", "shared", "datasets", "NekoQA-516.json"));
        Assert.SkipUnless(File.Exists(real), $"the real rows are not beside this checkout ({real})");
        using var json = JsonDocument.Parse(File.ReadAllText(real));
        var theirs = json.RootElement.EnumerateArray().SelectMany(row => row.EnumerateObject())
            .Select(member => KnowledgeBase.Normal(member.Value.GetString() ?? "")).ToHashSet();
        Assert.DoesNotContain(All, row => theirs.Contains(KnowledgeBase.Normal(row.Output)));
    }
}
