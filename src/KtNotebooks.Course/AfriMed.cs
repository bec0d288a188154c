using System.Text.Json;
using System.Text.RegularExpressions;
using KtNotebooks.Data;
using KtNotebooks.Files;

namespace KtNotebooks.Course;

/// <summary>
/// Converts AfriMed-QA v2's CSV into alpaca files, one for each kind of question and split. Single choice (mcq): the question with lettered options,
/// answered by one letter. Short answer (saq): the question, answered by its rationale. Other kinds of question have no reference answer and are counted.
/// Other columns than the ones used may be there.
/// </summary>
public static partial class AfriMed
{
    /// <summary>The columns that our own file has; a real one has more.</summary>
    public static readonly IReadOnlyList<string> Columns = ["sample_id", "split", "question_type", "question", "question_clean", "answer_options",
        "correct_answer", "answer_rationale"];

    /// <summary>What stands for an option that a question does not have.</summary>
    public const string NoOption = "N/A";

    /// <summary>The line after the options.</summary>
    public const string AskForLetter = "Answer with the letter of the right option only.";

    /// <summary>Rationales up to this length ("none", "N/A") say nothing.</summary>
    private const int ShortestRationale = 5;

    /// <summary>What was written, and the rows that were left out with the reason, as "file:row: why".</summary>
    public sealed record Result(IReadOnlyList<(string File, int Rows)> Written, IReadOnlyList<string> Skipped);

    /// <summary>Writes {name}_mcq_train.json and so on into a folder; a kind and split without rows gets no file.</summary>
    /// <param name="csv">The CSV.</param>
    /// <param name="folder">Where to.</param>
    /// <param name="name">How the files begin; null: like the CSV.</param>
    /// <exception cref="InvalidDataException">The CSV is not valid or lacks a column.</exception>
    public static Result Convert(string csv, string folder, string? name = null)
    {
        name ??= Path.GetFileNameWithoutExtension(csv);
        var files = new SortedDictionary<string, List<QaRow>>(StringComparer.Ordinal);
        List<string> skipped = [];
        foreach (var row in CsvReader.Read(csv))
        {
            var (file, made, why) = Convert(row);
            if (made is null)
            {
                skipped.Add($"{row.Source}: {why}");
                continue;
            }
            if (!files.TryGetValue(file, out var list))
                files[file] = list = [];
            list.Add(made);
        }
        if (files.Count == 0 && skipped.Count == 0)
            throw new InvalidDataException($"{csv}: has no rows; expected a header line and questions. AfriMed-QA v2 has the columns"
                + $" {string.Join(", ", Columns)}.");
        Directory.CreateDirectory(folder);
        foreach (var (file, rows) in files)
            AtomicFile.WriteText(Path.Combine(folder, $"{name}_{file}.json"), QaRow.ToJsonArray(rows));
        return new Result([.. files.Select(f => ($"{name}_{f.Key}.json", f.Value.Count))], skipped);
    }

    private static (string File, QaRow? Row, string Why) Convert(Row row)
    {
        var type = Field("question_type");
        var split = Field("split");
        if (split is not ("train" or "test"))
            return ("", null, $"the split is '{split}'; expected train or test");
        var question = (Field("question_clean") ?? Field("question") ?? "").Trim();
        if (question.Length == 0)
            return ("", null, "the question is empty");
        var (made, why) = type switch
        {
            "mcq" => Choice(question, Field("answer_options"), Field("correct_answer")),
            "saq" => Short(question, Field("answer_rationale")),
            _ => ((QaRow?)null, $"question_type '{type}' has no reference answer"),
        };
        return ($"{type}_{split}", made, why);

        string? Field(string column) => row.Fields.TryGetProperty(column, out var value)
            ? value.GetString()
            : throw new InvalidDataException($"{row.Source}: there is no column '{column}'."
            + $"{Nearest.Hint(column, [.. row.Fields.EnumerateObject().Select(p => p.Name)])} AfriMed-QA v2 has {string.Join(", ", Columns)}.");
    }

    private static (QaRow? Row, string Why) Short(string question, string? rationale) => rationale?.Trim() is { Length: >= ShortestRationale } answer
        ? (new QaRow(question, answer), "")
        : (null, $"the rationale '{rationale}' is too short to be an answer");

    private static (QaRow? Row, string Why) Choice(string question, string? options, string? correct)
    {
        if (correct is null || !SingleOption().IsMatch(correct))
            return (null, $"correct_answer is '{correct}'; one option such as option2 is needed for an answer of one letter");
        Dictionary<string, string?>? all;
        try
        {
            all = options is null ? null : JsonSerializer.Deserialize<Dictionary<string, string?>>(options);
        }
        catch (JsonException)
        {
            all = null;
        }
        if (all is null)
            return (null, $"answer_options is no JSON object of options: {options}");
        // In the order of their numbers; letters go on without a gap where one is missing.
        var kept = all.Where(o => o.Value?.Trim() is { Length: > 0 } text && text != NoOption).OrderBy(o => o.Key.Length)
            .ThenBy(o => o.Key, StringComparer.Ordinal).ToArray();
        var right = Array.FindIndex(kept, o => o.Key == correct);
        if (right < 0 || kept.Length < 2)
            return (null, $"correct_answer {correct} is not among the {kept.Length} options that have a text");
        var lines = kept.Select((o, i) => $"{Letter(i)}. {OwnLetter().Replace(o.Value!.Trim(), "")}");
        return (new QaRow($"{question}\n{string.Join('\n', lines)}\n{AskForLetter}", Letter(right).ToString()), "");
    }

    private static char Letter(int index) => (char)('A' + index);

    [GeneratedRegex(@"^option\d+$")]
    private static partial Regex SingleOption();

    /// <summary>Some options bring a letter of their own, "b.\tErect chest X-ray".</summary>
    [GeneratedRegex(@"^\(?[a-eA-E][.)]\s+")]
    private static partial Regex OwnLetter();
}
