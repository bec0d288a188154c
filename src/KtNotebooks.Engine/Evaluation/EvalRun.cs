using System.Diagnostics;

using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Files;
using KtNotebooks.Generation;
using KtNotebooks.Models;
using KtNotebooks.Tokenizers;
using KtNotebooks.Weights;

namespace KtNotebooks.Evaluation;

/// <param name="Choices">For a multiple-choice data set.</param>
/// <param name="Accuracy">Token accuracy and loss, for any other.</param>
public sealed record EvalResult(ChoiceScores? Choices, (double Accuracy, double Loss)? Accuracy, int Rows, TimeSpan Elapsed)
{
    public IReadOnlyList<(string Name, double Value)> All => Choices?.All ?? [("accuracy", Accuracy!.Value.Accuracy), ("loss", Accuracy.Value.Loss)];
}

/// <summary>
/// `kt eval` with a model: a data set of which every row is a multiple-choice question is scored two ways, by likelihood and by strict parse of a short
/// answer; on any other the token accuracy and the loss are computed. Writes eval_results.json.
/// </summary>
public sealed class EvalRun : IDisposable
{
    /// <summary>Enough to see that a letter stands alone.</summary>
    internal const int AnswerTokens = 4;

    private readonly OpenedRows _rows;

    private EvalRun(OpenedRows rows) => _rows = rows;

    /// <summary>What is done of how many rows, in words.</summary>
    public event Action<string>? OnProgress;

    public CausalLm Model => _rows.Model;

    public Tokenizer Tokenizer => _rows.Tokenizer;

    /// <summary>The processes that share the rows out; the first one writes.</summary>
    public ICollective Ranks => _rows.Ranks;

    /// <summary>Rows that are not scored, with file, row and reason.</summary>
    public IReadOnlyList<string> LeftOut => _rows.LeftOut;

    /// <summary>What a person should know before it starts.</summary>
    public IReadOnlyList<string> Notes => [.. _rows.Notes, .. OtherRow()];

    public static EvalRun Open(params string[] arguments) => Open(null, arguments);

    /// <param name="loading">Told how far the model has come in.</param>
    /// <param name="arguments">A YAML file and key=value pairs over it.</param>
    /// <param name="cancel">Looked at while rows are read.</param>
    public static EvalRun Open(Action<WorkProgress>? loading, string[] arguments, CancellationToken cancel = default) =>
        Open(loading, arguments, SingleRank.Instance, cancel);

    /// <inheritdoc cref="Open(Action{WorkProgress}?, string[], CancellationToken)"/>
    /// <param name="ranks">The processes that share the rows out.</param>
    public static EvalRun Open(Action<WorkProgress>? loading, string[] arguments, ICollective ranks, CancellationToken cancel = default) =>
        new(OpenedRows.Open("kt eval", c => PredictSettings.Read(c, AnswerTokens), Need.Answer, loading, arguments, ranks, cancel));

    public EvalResult Run(CancellationToken cancel = default)
    {
        using var held = Ranks.IsFirst() ? FolderLock.Inside(_rows.Settings.OutputDir, "an evaluation", "output_dir") : null;
        var watch = Stopwatch.StartNew();
        var encoder = new SftEncoder(_rows.Settings.Model.Template, Tokenizer, _rows.Settings.Cutoff);
        string?[] letters = [.. _rows.Examples.Select(ChoiceQuestion.LettersOf)];
        var result = letters.All(l => l is not null)
            ? new EvalResult(Choose(encoder, letters!, cancel), null, _rows.Examples.Count, watch.Elapsed)
            : new EvalResult(null, new TokenAccuracy(Model).Of(encoder.EncodeAll(_rows.Examples, cancel), Ranks, cancel), _rows.Examples.Count, watch.Elapsed);
        result = result with { Elapsed = watch.Elapsed };
        if (result.All.FirstOrDefault(v => !double.IsFinite(v.Value)) is { Name: { } name })
            throw new InvalidDataException($"eval_{name} is not a number (NaN): a weight of the model or of its adapter is, or activations are larger than "
                + "their type holds; `kt train` on any row names the layer where it begins. Nothing was written");
        if (!Ranks.IsFirst()) return result;
        ResultsFile.Write(_rows.Settings.OutputDir, "eval", [.. result.All, ("samples", result.Rows), ("runtime", Math.Round(result.Elapsed.TotalSeconds, 4)),
            ("samples_per_second", Math.Round(result.Rows / result.Elapsed.TotalSeconds, 3))]);
        return result;
    }

    public void Dispose() => Model.Dispose();

    /// <summary>Rows that are multiple-choice questions among others that are none are not scored as such, for accuracy would be of two kinds.</summary>
    private IEnumerable<string> OtherRow()
    {
        var choices = _rows.Examples.Count(e => ChoiceQuestion.LettersOf(e) is not null);
        if (choices == 0 || choices == _rows.Examples.Count) return [];
        var other = _rows.Examples.First(e => ChoiceQuestion.LettersOf(e) is null);
        return [$"{choices:N0} of {_rows.Examples.Count:N0} rows are multiple-choice questions, but {other.Source} is not (options on lines 'A. …', "
            + "'B. …', and one of their letters as the answer): 'accuracy' is that of all rows' answer tokens, not of letters"];
    }

    private ChoiceScores Choose(SftEncoder encoder, string[] letters, CancellationToken cancel)
    {
        var (from, to) = Ranks.PartOf(_rows.Examples.Count);
        var prompts = _rows.Examples.Take(from..to).AsParallel().AsOrdered().WithCancellation(cancel).Select(e => encoder.EncodePrompt(e).Prompt).ToArray();
        var rows = prompts.Length;
        var likeliest = new ChoiceLikelihood(Model, Tokenizer).Choose([.. prompts.Zip(letters[from..to])],
            done => OnProgress?.Invoke($"likelihood of the letters: {done}/{rows}"), cancel);
        var stops = _rows.StopIds;
        using var scheduler = new Scheduler(Model, Tokenizer, new SchedulerSettings { Slots = _rows.Settings.BatchSize });
        var sampling = _rows.Settings.Sampling with { DoSample = false };
        var (done, strict, unread, likely) = (0, 0, 0, 0);
        foreach (var (row, written) in scheduler.ReadAll([.. prompts.Select(p => new GenerationRequest(p, sampling) { StopIds = stops })], cancel))
        {
            var answer = ChoiceQuestion.Parse(Tokenizer.Decode(written.Ids, skipSpecial: true), letters[from + row]);
            if (answer is null) unread++;
            if (answer == Label(from + row)) strict++;
            if (++done % 64 == 0 || done == rows) OnProgress?.Invoke($"written answers: {done}/{rows}");
        }
        for (var row = 0; row < rows; row++)
            if (likeliest[row] == Label(from + row)) likely++;
        var counts = Ranks.AllGather([likely, strict, unread]);
        double Share(int of) => counts.Sum(rank => rank[of]) / _rows.Examples.Count;
        return new ChoiceScores(_rows.Examples.Count, Share(0), Share(1), Share(2), letters.Average(l => 1.0 / l.Length));
    }

    private char Label(int row) => _rows.Examples[row].Answer.Trim()[0];
}
