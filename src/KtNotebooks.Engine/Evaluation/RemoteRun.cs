using System.Diagnostics;
using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Files;
using KtNotebooks.Generation;

namespace KtNotebooks.Evaluation;

/// <summary>
/// `kt predict` and `kt eval` with a model behind a URL (api_base): the same rows, files and scores as with a model of one's own, so that ours and others
/// stand in one table. Started again it goes on with the rows that are missing.
/// </summary>
public sealed class RemoteRun : IPredictRun
{
    private readonly RemoteModel _model;
    private readonly List<Example> _examples;
    private readonly JsonObject _noted;
    private readonly int _atOnce;
    private readonly string _split;

    private RemoteRun(RemoteModel model, List<Example> examples, JsonObject noted, int atOnce, string split) =>
        (_model, _examples, _noted, _atOnce, _split) = (model, examples, noted, atOnce, split);

    public event Action<PredictProgress>? OnProgress;

    public event Action<string>? OnNote;

    public string OutputDir { get; private init; } = "";

    public bool Overwrite { get; private init; }

    public IReadOnlyList<string> LeftOut { get; private init; } = [];

    public IReadOnlyList<string> Notes { get; private init; } = [];

    /// <summary>Null where the config names no server.</summary>
    /// <param name="arguments">A YAML file and key=value pairs over it.</param>
    /// <param name="evaluates">For `kt eval`: greedy answers of a few tokens to questions of multiple choice.</param>
    /// <param name="cancel">Looked at while rows are read.</param>
    /// <exception cref="ArgumentException">`kt eval` of rows that are no questions of multiple choice.</exception>
    public static RemoteRun? Open(string[] arguments, bool evaluates, CancellationToken cancel = default)
    {
        var c = Settings.Read(arguments);
        if (!c.Has("api_base")) return null;
        var sampling = ModelKeys.ReadSampling(c);
        if (evaluates) sampling = sampling with { DoSample = false, MaxNewTokens = c.MaybeInt("max_new_tokens") ?? EvalRun.AnswerTokens };
        var model = RemoteModel.Read(c, sampling)!;
        try
        {
            foreach (var key in (string[])["do_predict", "do_eval", "predict_with_generate"]) c.Flag(key); // what these commands do
            var (output, overwrite) = (c.Required("output_dir"), c.Flag("overwrite_output_dir"));
            var (folder, sets, most, system) = (c.TextOrDefault("dataset_dir"), c.Required("eval_dataset"), c.MaybePositive("max_samples"),
                c.Text("default_system"));
            var atOnce = c.Positive("api_concurrency");
            IReadOnlyList<string> notes = [.. c.Finish(evaluates ? "kt eval" : "kt predict"), .. evaluates
                ? ["by likelihood a model is scored by itself alone; by a URL it is what it writes"] : Array.Empty<string>()];
            FolderLock.RequireFree(output, "output_dir");
            var read = DatasetLoader.ReadToPredict(folder, sets, most, evaluates ? Need.Answer : Need.Question, cancel);
            List<Example> examples = [.. read.SelectMany(s => s.Examples).Select(e => system is null ? e : e with { System = e.System ?? system })];
            if (evaluates && examples.FirstOrDefault(e => ChoiceQuestion.LettersOf(e) is null) is { } other)
                throw new ArgumentException($"{other.Source}: is no question of multiple choice; token accuracy and loss need the model itself, and "
                    + "`kt predict api_base=…` scores texts");
            return new RemoteRun(model, examples, Note(model, sampling, sets, most, system), atOnce, evaluates ? "eval" : "predict")
            {
                OutputDir = output,
                Overwrite = overwrite,
                Notes = notes,
                LeftOut = [.. read.Where(s => s.Skipped.Count > 0).SelectMany(s => s.Skipped.Prepend($"{s.Name}: {s.Skipped.Count} rows are left out:"))],
            };
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    public PredictResult Run(CancellationToken cancel = default)
    {
        using var held = FolderLock.Inside(OutputDir, "a prediction run", "output_dir");
        PredictSettings.Claim(OutputDir, Overwrite, _noted);
        string[] prompts = [.. _examples.Select(TextOf)];
        using var log = PredictionLog.Open(OutputDir, prompts);
        var before = log.Done;
        if (before > 0) OnNote?.Invoke($"{before} of {prompts.Length} rows are done; going on");
        int[] missing = [.. Enumerable.Range(0, prompts.Length).Where(row => !log.Has(row))];
        var (watch, tokens, interrupted) = (Stopwatch.StartNew(), 0L, false);
        try
        {
            Parallel.ForEachAsync(missing, new ParallelOptions { MaxDegreeOfParallelism = _atOnce, CancellationToken = cancel }, async (row, stop) =>
            {
                var (text, drawn) = await _model.AnswerAsync(_examples[row], row, stop);
                lock (log)
                {
                    log.Add(row, new Prediction(prompts[row], text, _examples[row].Label));
                    tokens += drawn;
                    var (done, elapsed) = (log.Done - before, watch.Elapsed);
                    OnProgress?.Invoke(new PredictProgress(log.Done, prompts.Length, tokens / elapsed.TotalSeconds, elapsed,
                        elapsed / done * (missing.Length - done)));
                }
            }).GetAwaiter().GetResult();
            log.Complete();
        }
        catch (OperationCanceledException) when (cancel.IsCancellationRequested)
        {
            interrupted = true;
        }
        var result = new PredictResult(log.Done, prompts.Length, log.Done - before, tokens, watch.Elapsed, null, interrupted);
        if (interrupted || _split == "eval") return result;
        return result with { Scores = PredictScores.Write(OutputDir, result, _examples.All(e => e.Label.Length > 0), OnNote, cancel) };
    }

    /// <summary>`kt eval`: runs, and scores what was written.</summary>
    public ChoiceScores Evaluate(CancellationToken cancel = default)
    {
        var result = Run(cancel);
        cancel.ThrowIfCancellationRequested();
        var scores = ChoiceScores.OfPredictions(Predictions.Read(Path.Combine(OutputDir, Predictions.FileName)))!;
        ResultsFile.Write(OutputDir, _split, [.. scores.All, ("samples", scores.Rows), ("runtime", Math.Round(result.Elapsed.TotalSeconds, 4))]);
        return scores;
    }

    public void Dispose() => _model.Dispose();

    /// <summary>What was sent, for the eye and for going on: templates are the server's.</summary>
    private static string TextOf(Example example) =>
        string.Join('\n', example.Prompt.Select(m => m.Content).Prepend(example.System ?? "").Where(text => text.Length > 0));

    private static JsonObject Note(RemoteModel model, Sampling sampling, string sets, int? most, string? system) => new()
    {
        ["api_base"] = model.Url.ToString(),
        ["api_model_name"] = model.Name,
        ["default_system"] = system,
        ["eval_dataset"] = sets,
        ["max_samples"] = most,
        ["max_new_tokens"] = sampling.MaxNewTokens,
        ["do_sample"] = sampling.DoSample,
        ["temperature"] = sampling.Temperature,
        ["top_p"] = sampling.TopP,
        ["top_k"] = sampling.TopK,
        ["repetition_penalty"] = sampling.RepetitionPenalty,
        ["seed"] = sampling.Seed,
    };
}
