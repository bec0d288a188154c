using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using KtNotebooks.Course;
using KtNotebooks.Course.Synthetic;
using KtNotebooks.Data;
using KtNotebooks.Files;
using Xunit;

namespace KtNotebooks.Tests.Course.Synthetic;

public sealed class MedicalSetTests
{
    private static readonly string Datasets = Path.Combine(Checkout.Root, "datasets");
    private static readonly IReadOnlyList<Fact> Facts = MedicalSet.LoadFacts(Path.Combine(Datasets, "source", MedicalSet.SourceFolder));
    private static readonly ByteWindow Csv = new(new MemoryStream(Encoding.UTF8.GetBytes(MedicalSet.ToCsv(Facts))), MedicalSet.FileName);
    private static readonly JsonElement[] Rows = [.. CsvReader.Read(Csv, MedicalSet.FileName).Select(row => row.Fields)];

    [Fact]
    public void Committed_files_are_what_the_generator_and_the_converter_write()
    {
        using var folder = new Tokenizers.Samples.Folder();
        var result = MedicalSet.Write(Facts, folder.Path);
        Assert.Empty(result.Skipped);
        var readme = File.ReadAllText(Path.Combine(Datasets, "README.md"));
        string[] files = [MedicalSet.FileName, .. result.Written.Select(w => w.File)];
        Assert.Equal(5, files.Length);
        foreach (var file in files)
        {
            Assert.True(File.ReadAllText(Path.Combine(Datasets, file)) == File.ReadAllText(Path.Combine(folder.Path, file)),
                $"datasets/{file} differs from what the tables give; run: kt data make afrimed-style --out datasets");
            Assert.Contains(Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(Path.Combine(Datasets, file)))), readme);
        }
        Assert.All(result.Written, written => Assert.Equal(written.Rows, DatasetLoader.Load(Datasets, Path.GetFileNameWithoutExtension(written.File)).Count));
    }

    [Fact]
    public void There_are_rows_of_both_kinds_and_no_question_twice()
    {
        Assert.True(Rows.Length >= 1200);
        Assert.Equal(Rows.Length, Rows.Select(row => KnowledgeBase.Normal(Text(row, "question_clean"))).Distinct().Count());
        Assert.Equal(Rows.Length, Rows.Select(row => Text(row, "sample_id")).Distinct().Count());
        foreach (var kind in new[] { "mcq", "saq" })
            Assert.True(Rows.Count(row => Text(row, "question_type") == kind && Text(row, "split") == "test") >= 200);
    }

    [Fact]
    public void A_choice_has_different_options_of_which_exactly_one_belongs_to_the_fact()
    {
        var owner = Facts.SelectMany(fact => fact.Questions.Select(question => (question, fact))).ToDictionary(pair => pair.question, pair => pair.fact);
        foreach (var row in Rows.Where(row => Text(row, "question_type") == "mcq"))
        {
            var options = JsonSerializer.Deserialize<Dictionary<string, string>>(Text(row, "answer_options"))!;
            var real = options.Values.Where(option => option != AfriMed.NoOption).ToArray();
            var fact = owner[Text(row, "question")];
            Assert.Equal(5, options.Count);
            Assert.True(real.Length >= 4 && real.Distinct().Count() == real.Length, Text(row, "answer_options"));
            Assert.Equal(fact.Option, options[Text(row, "correct_answer")]);
        }
    }

    [Fact]
    public void The_letters_are_balanced()
    {
        var counts = Rows.Where(row => Text(row, "question_type") == "mcq").GroupBy(row => Text(row, "correct_answer")).Select(group => group.Count())
            .ToArray();
        Assert.Equal(5, counts.Length);
        Assert.True(counts.Max() < 1.5 * counts.Min(), string.Join(' ', counts));
    }

    [Fact]
    public void A_fact_without_three_wordings_is_refused()
    {
        using var folder = new Tokenizers.Samples.Folder();
        folder.Write("a.yaml",
            "columns: x | y\nfacts: |\n  a | b\nrelations:\n  r:\n    en:\n      ask: |\n        What is {x}?\n      answer: |\n        It is {y}.\n      "
                + "option: |\n        {y}\n");
        Assert.Contains("a/a/r needs one option and three questions, but has one and 1",
            Assert.Throws<InvalidDataException>(() => MedicalSet.LoadFacts(folder.Path)).Message);
    }

    private static string Text(JsonElement row, string column) => row.GetProperty(column).GetString() ?? "";
}
