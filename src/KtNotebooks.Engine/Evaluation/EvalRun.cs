using System.Diagnostics;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Files;
using KtNotebooks.Generation;
using KtNotebooks.Models;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training;
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

    private readonly PredictSettings _settings;
    private readonly List<Example> _examples;

    private EvalRun(PredictSettings settings, CausalLm model, Tokenizer tokenizer, List<Example> examples) =>
        (_settings, Model, Tokenizer, _examples) = (settings, model, tokenizer, examples);

    /// <summary>What is done of how many rows, in words.</summary>
    public event Action<string>? OnProgress;

    public CausalLm Model { get; }

    public Tokenizer Tokenizer { get; }

    /// <summary>The processes that share the rows out; the first one writes.</summary>
    public ICollective Ranks { get; private init; } = SingleRank.Instance;

    /// <summary>Rows that are not scored, with file, row and reason.</summary>
    public IReadOnlyList<string> LeftOut { get; private init; } = [];

    /// <summary>What a person should know before it starts.</summary>
    public IReadOnlyList<string> Notes { get; private init; } = [];

    public static EvalRun Open(params string[] arguments) => Open(null, arguments);

    /// <param name="loading">Told how far the model has come in.</param>
    /// <param name="arguments">A YAML file and key=value pairs over it.</param>
    /// <param name="cancel">Looked at while rows are read.</param>
    public static EvalRun Open(Action<WorkProgress>? loading, string[] arguments, CancellationToken cancel = default) =>
        Open(loading, arguments, SingleRank.Instance, cancel);

    /// <inheritdoc cref="Open(Action{WorkProgress}?, string[], CancellationToken)"/>
    /// <param name="ranks">The processes that share the rows out.</param>
    public static EvalRun Open(Action<WorkProgress>? loading, string[] arguments, ICollective ranks, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(ranks);
        var c = Settings.Read(arguments);
        var settings = PredictSettings.Read(c, AnswerTokens);
        var notes = c.Finish("kt eval");
        if (ranks.IsFirst()) FolderLock.RequireFree(settings.OutputDir, "output_dir");
        var examples = settings.Load(out var left, cancel);
        foreach (var example in examples) _ = example.Answer; // the first row without one is named
        SameRun.Require(ranks, settings.Facts(c, examples));
        var (model, tokenizer) = settings.Model.Load(loading);
        return new EvalRun(settings, model, tokenizer, examples)
        {
            LeftOut = left,
            Notes = [.. notes, .. settings.Model.Notes, .. model.Notes],
            Ranks = ranks,
        };
    }

    public EvalResult Run(CancellationToken cancel = default)
    {
        using var held = Ranks.IsFirst() ? FolderLock.Inside(_settings.OutputDir, "an evaluation", "output_dir") : null;
        var watch = Stopwatch.StartNew();
        var encoder = new SftEncoder(_settings.Model.Template, Tokenizer, _settings.Cutoff);
        string?[] letters = [.. _examples.Select(ChoiceQuestion.LettersOf)];
        var result = letters.All(l => l is not null)
            ? new EvalResult(Choose(encoder, letters!, cancel), null, _examples.Count, watch.Elapsed)
            : new EvalResult(null, new TokenAccuracy(Model).Of(encoder.EncodeAll(_examples, cancel), Ranks, cancel), _examples.Count, watch.Elapsed);
        result = result with { Elapsed = watch.Elapsed };
        if (!Ranks.IsFirst()) return result;
        ResultsFile.Write(_settings.OutputDir, "eval", [.. result.All, ("samples", result.Rows), ("runtime", Math.Round(result.Elapsed.TotalSeconds, 4)),
            ("samples_per_second", Math.Round(result.Rows / result.Elapsed.TotalSeconds, 3))]);
        return result;
    }

    public void Dispose() => Model.Dispose();

    private ChoiceScores Choose(SftEncoder encoder, string[] letters, CancellationToken cancel)
    {
        var (from, to) = Ranks.PartOf(_examples.Count);
        var prompts = _examples.Take(from..to).AsParallel().AsOrdered().WithCancellation(cancel).Select(e => encoder.EncodePrompt(e).Prompt).ToArray();
        var rows = prompts.Length;
        var likeliest = new ChoiceLikelihood(Model, Tokenizer).Choose([.. prompts.Zip(letters[from..to])],
            done => OnProgress?.Invoke($"likelihood of the letters: {done}/{rows}"), cancel);
        var stops = _settings.Model.Template.StopIds(Tokenizer).ToHashSet();
        if (Tokenizer.EosId is { } eos) stops.Add(eos);
        using var scheduler = new Scheduler(Model, Tokenizer, new SchedulerSettings { Slots = _settings.BatchSize });
        var sampling = _settings.Sampling with { DoSample = false };
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
        double Share(int of) => counts.Sum(rank => rank[of]) / _examples.Count;
        return new ChoiceScores(_examples.Count, Share(0), Share(1), Share(2), letters.Average(l => 1.0 / l.Length));
    }

    private char Label(int row) => _examples[row].Answer.Trim()[0];
}
