using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Files;
using KtNotebooks.Generation;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Training;

namespace KtNotebooks.Evaluation;

/// <summary>
/// What `kt predict` and `kt eval` read from a config, checked, before anything is loaded. Keys are those of LLaMA-Factory's predict configs.
/// </summary>
public sealed record PredictSettings(ModelKeys Model, Sampling Sampling, string? System, string DatasetFolder, string Datasets, int Cutoff, int? MaxSamples,
    double ValSize, int BatchSize, string OutputDir, bool Overwrite)
{
    public const string FileName = "predict_settings.json";

    /// <summary>Of all files of the adapter, taken before the model is loaded; null: the base alone.</summary>
    public string? AdapterHash { get; } = Model.Adapter is null ? null : HashOf(Model.Adapter);

    /// <param name="newTokens">max_new_tokens where the config says nothing; null: LLaMA-Factory's 1024.</param>
    public static PredictSettings Read(Settings c, int? newTokens = null)
    {
        ArgumentNullException.ThrowIfNull(c);
        if (!c.Has("eval_dataset") && c.Has("task"))
            throw new ArgumentException($"{c.Where("task")}: 'task' is {c.Text("task")}, which is not to be had here: the exams of LLaMA-Factory's old eval "
                + "command are not in this repository. Name a data set of questions as eval_dataset: `kt eval` scores multiple choice by likelihood and by "
                + "what is written");
        var model = ModelKeys.Read(c);
        var sampling = ModelKeys.ReadSampling(c);
        if (newTokens is { } few && !c.Has("max_new_tokens")) sampling = sampling with { MaxNewTokens = few };
        var valSize = c.Number("val_size");
        // A training config's rows for evaluation: eval_dataset, or the part of dataset that val_size split off.
        var trained = c.Text("dataset");
        var sets = c.Text("eval_dataset")
            ?? (valSize > 0 && trained is not null ? trained
            : throw new ArgumentException($"{c.Name}: 'eval_dataset' is required (or 'dataset' with 'val_size')"));
        if (c.Has("stage") && c.Text("stage") != "sft")
            throw c.Wrong("stage", "sft: what is predicted are the answers of its rows (`kt predict stage=rm` gives the values of a reward model)");
        foreach (var key in (string[])["do_predict", "do_eval", "predict_with_generate"]) c.Flag(key); // what these commands do
        return new PredictSettings(model, sampling, c.Text("default_system"), c.TextOrDefault("dataset_dir"), sets, c.Positive("cutoff_len"),
            c.MaybePositive("max_samples"), c.Has("eval_dataset") ? 0 : valSize,
            c.Positive("per_device_eval_batch_size"), c.Required("output_dir"), c.Flag("overwrite_output_dir"));
    }

    /// <summary>The rows.</summary>
    /// <param name="need">Whether rows without an answer are of use.</param>
    /// <param name="left">Rows that are of no use, with file, row and reason.</param>
    /// <param name="cancel">Looked at with every row.</param>
    public List<Example> Load(Need need, out IReadOnlyList<string> left, CancellationToken cancel = default)
    {
        var sets = DatasetLoader.ReadToPredict(DatasetFolder, Datasets, MaxSamples, need, cancel);
        left = [.. sets.Where(s => s.Skipped.Count > 0).SelectMany(s => s.Skipped.Prepend($"{s.Name}: {s.Skipped.Count} rows are left out:"))];
        List<Example> examples = [.. sets.SelectMany(s => s.Examples)];
        if (ValSize > 0) examples = DatasetLoader.Split(examples, ValSize, (int)Sampling.Seed).Evaluation;
        return System is null ? examples : [.. examples.Select(e => e with { System = e.System ?? System })];
    }

    /// <summary>What must be the same for all ranks that share the rows.</summary>
    internal IEnumerable<(string Name, string Value)> Facts(Settings c, IReadOnlyList<Example> examples)
    {
        return [("the build of kt", SameRun.Code), .. c.Given.Select(g => (g.Key, g.Value ?? "null")), ("adapter (sha256)", AdapterHash ?? "none"),
            ("rows of the data set (sha256)", HashOf(examples.Select(e => $"{string.Join('\0', e.Prompt.Select(m => m.Content))}\0{e.Label}")))];
    }

    private static string HashOf(IEnumerable<string> texts) =>
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\0', texts))))[..16];

    /// <summary>
    /// Notes in the output folder what decides the predictions, or compares with what an earlier run noted. The adapter counts by its bytes and the base by
    /// its fingerprint: retrained under the same name they are others. So are answers that were corrected, which are written beside the predictions.
    /// </summary>
    /// <param name="model">Loaded, with the adapter on it.</param>
    /// <param name="examples">The rows.</param>
    /// <exception cref="ArgumentException">The folder holds predictions of other settings; the message names the first difference.</exception>
    public void Claim(CausalLm model, IReadOnlyList<Example> examples) => Claim(OutputDir, Overwrite, new JsonObject
    {
        ["model_name_or_path"] = Path.GetFullPath(Model.Path),
        ["model_fingerprint"] = AdapterFolder.Fingerprint(model),
        ["adapter_name_or_path"] = Model.Adapter is null ? null : Path.GetFullPath(Model.Adapter),
        ["adapter_sha256"] = AdapterHash,
        ["template"] = Model.Template.Name,
        ["infer_dtype"] = Model.Type.ToString(),
        ["default_system"] = System,
        ["eval_dataset"] = Datasets,
        ["answers_sha256"] = HashOf(examples.Select(e => e.Label)), // a changed prompt is named with its row, by PredictionLog
        ["cutoff_len"] = Cutoff,
        ["max_samples"] = MaxSamples,
        ["val_size"] = ValSize,
        ["max_new_tokens"] = Sampling.MaxNewTokens,
        ["do_sample"] = Sampling.DoSample,
        ["temperature"] = Sampling.Temperature,
        ["top_p"] = Sampling.TopP,
        ["top_k"] = Sampling.TopK,
        ["repetition_penalty"] = Sampling.RepetitionPenalty,
        ["seed"] = Sampling.Seed,
    });

    /// <inheritdoc cref="Claim(CausalLm, IReadOnlyList{Example})"/>
    /// <param name="folder">output_dir.</param>
    /// <param name="overwrite">Begin again.</param>
    /// <param name="now">What decides the predictions.</param>
    internal static void Claim(string folder, bool overwrite, JsonObject now)
    {
        var path = Path.Combine(folder, FileName);
        const string Otherwise = "choose another output_dir, or overwrite_output_dir=true to begin again";
        if (overwrite) PredictionLog.Clear(folder);
        else if (PredictionLog.HasRows(folder)) // a run that ended before its first row, at a wrong URL, binds nobody
        {
            var noted = Noted(path, Otherwise)
                ?? throw new ArgumentException($"{folder} holds {Predictions.FileName} without {FileName}, so nobody knows how it was made; {Otherwise}");
            foreach (var (key, before, after) in NotedSettings.Differences(noted, now))
                throw new ArgumentException($"{folder} holds predictions made with {key} {before}, now it is {after}; {Otherwise}");
        }
        NotedSettings.Write(path, now);
    }

    private static JsonObject? Noted(string path, string otherwise)
    {
        try
        {
            return NotedSettings.Read(path);
        }
        catch (InvalidDataException error)
        {
            throw new InvalidDataException($"{error.Message}; so nobody knows how the predictions beside it were made: {otherwise}");
        }
    }

    private static string HashOf(string adapter)
    {
        using (AdapterSource.Open(adapter)) // what is wrong with it is named before the model is loaded
            return AdapterFiles.Find(adapter).Hash();
    }
}
