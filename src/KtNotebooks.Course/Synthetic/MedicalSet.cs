using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using KtNotebooks.Files;

namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// The committed medical exam in AfriMed-QA v2's column layout, made from the textbook tables in datasets/source/medicine. A fact has three wordings: one
/// trains as single choice (mcq), one as short answer (saq), the third is a test row of either kind. So the facts of the test have been taught, in other
/// words and other options: an exam after a lesson.
/// </summary>
public static class MedicalSet
{
    public const string FileName = "afrimed_style.csv", SourceFolder = "medicine";

    /// <summary>The wrong options of a single-choice question; fewer where the table has fewer.</summary>
    private const int Distractors = 4;

    private const ulong Seed = 27180;

    private static readonly JsonSerializerOptions Readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private sealed record Row(string Split, string Type, string Question, string Options, string Correct, string Rationale);

    /// <summary>Reads the tables of a folder.</summary>
    /// <exception cref="InvalidDataException">A table is malformed, one question is answered by two facts, or a fact lacks an option or a wording.</exception>
    public static IReadOnlyList<Fact> LoadFacts(string folder)
    {
        if (!Directory.Exists(folder))
            throw new DirectoryNotFoundException($"source folder '{folder}' is not there; give the repository's datasets/source with --source");
        Fact[] facts = [.. Directory.GetFiles(folder, "*.yaml").Order(StringComparer.Ordinal).SelectMany(FactTable.Read)];
        KnowledgeBase.RejectAmbiguousQuestions(facts);
        foreach (var fact in facts)
            if (fact.Option is null || fact.Questions.Count != 3)
                throw new InvalidDataException($"{folder}: the fact {fact.Id} needs one option and three questions, but "
                    + $"has {(fact.Option is null ? "none" : "one")} and {fact.Questions.Count}");
        return facts;
    }

    /// <summary>The file's text: RFC 4180 with LF, UTF-8; always the same for the same tables.</summary>
    public static string ToCsv(IReadOnlyList<Fact> facts)
    {
        var pools = facts.GroupBy(fact => fact.Group).ToDictionary(group => group.Key, group => group.Select(fact => fact.Option!).Distinct().ToArray());
        Row[] rows = [.. facts.SelectMany(fact => Rows(fact, pools[fact.Group]))];
        var text = new StringBuilder(string.Join(',', AfriMed.Columns)).Append('\n');
        foreach (var i in new SeededRandom(Seed).Permutation(rows.Length))
        {
            var row = rows[i];
            var id = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes($"{row.Type} {row.Question}")));
            text.AppendJoin(',', new[]
            {
                id, row.Split, row.Type, row.Question, row.Question, row.Options, row.Correct, row.Rationale
            }.Select(Field)).Append('\n');
        }
        return text.ToString();
    }

    /// <summary>Writes the CSV and what the converter makes of it.</summary>
    public static AfriMed.Result Write(IReadOnlyList<Fact> facts, string folder)
    {
        var file = Path.Combine(folder, FileName);
        AtomicFile.WriteText(file, ToCsv(facts));
        return AfriMed.Convert(file, folder);
    }

    private static IEnumerable<Row> Rows(Fact fact, string[] pool)
    {
        var random = SeededRandom.For(Seed, fact.Id);
        var wording = random.Permutation(3);
        yield return Choice("train", fact.Questions[wording[0]], fact, pool, random);
        yield return Short("train", fact.Questions[wording[1]], fact, random);
        yield return random.Chance(50) ? Choice("test", fact.Questions[wording[2]], fact, pool, random)
            : Short("test", fact.Questions[wording[2]], fact, random);
    }

    private static Row Short(string split, string question, Fact fact, SeededRandom random) => new(split, "saq", question, "", "", random.Pick(fact.Answers));

    private static Row Choice(string split, string question, Fact fact, string[] pool, SeededRandom random)
    {
        string[] wrong = [.. pool.Where(option => option != fact.Option)];
        string[] options = [fact.Option!, .. random.Permutation(wrong.Length).Take(Distractors).Select(i => wrong[i])];
        options = [.. random.Permutation(options.Length).Select(i => options[i])];
        // As in the real file an option that a question does not have is "N/A".
        var json = Enumerable.Range(0, Distractors + 1).ToDictionary(i => $"option{i + 1}", i => i < options.Length ? options[i] : AfriMed.NoOption);
        return new Row(split, "mcq", question, JsonSerializer.Serialize(json, Readable), $"option{Array.IndexOf(options, fact.Option) + 1}",
            random.Pick(fact.Answers));
    }

    private static string Field(string text) => text.AsSpan().ContainsAny(",\"\r\n") ? $"\"{text.Replace("\"", "\"\"")}\"" : text;
}
