using System.Security.Cryptography;
using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Files;
using KtNotebooks.Generation;

namespace KtNotebooks.Evaluation;

/// <summary>What `kt predict` and `kt eval` read from a config, checked, before anything is loaded. Keys are those of LLaMA-Factory's predict configs.</summary>
public sealed record PredictSettings(ModelKeys Model, Sampling Sampling, string? System, string DatasetFolder, string Datasets, int Cutoff, int? MaxSamples, double ValSize, int BatchSize, string OutputDir, bool Overwrite)
{
    public const string FileName = "predict_settings.json";

    /// <summary>Sequences at once where per_device_eval_batch_size says nothing. LLaMA-Factory's default is 8; here more cost no padding, and results do not depend on it.</summary>
    private const int DefaultBatch = 32;

    /// <param name="newTokens">max_new_tokens where the config says nothing; null: LLaMA-Factory's 1024.</param>
    public static PredictSettings Read(Settings c, int? newTokens = null)
    {
        ArgumentNullException.ThrowIfNull(c);
        var model = ModelKeys.Read(c);
        var sampling = ModelKeys.ReadSampling(c);
        if (newTokens is { } few && !c.Has("max_new_tokens")) sampling = sampling with { MaxNewTokens = few };
        var valSize = c.Number("val_size", 0);
        // A training config's rows for evaluation: eval_dataset, or the part of dataset that val_size split off.
        var sets = c.Text("eval_dataset") ?? (valSize > 0 ? c.Required("dataset") : throw new ArgumentException($"{c.Name}: 'eval_dataset' is required (or 'dataset' with 'val_size')"));
        var settings = new PredictSettings(model, sampling, c.Text("default_system"), c.Text("dataset_dir", "datasets"), sets, Positive(c, "cutoff_len", 2048), c.Int("max_samples"), c.Has("eval_dataset") ? 0 : valSize, Positive(c, "per_device_eval_batch_size", DefaultBatch), c.Required("output_dir"), c.Flag("overwrite_output_dir"));
        c.OneOf("stage", "sft", "sft");
        c.WithoutEffect("do_predict", "predict_with_generate", "do_eval", "dataset", "overwrite_cache", "preprocessing_num_workers", "dataloader_num_workers", "ddp_timeout", "report_to", "skip_special_tokens", "bf16");
        if (c.Flag("do_train")) throw c.Wrong("do_train", "false here (`kt train` trains)");
        return settings;
    }

    /// <summary>The rows.</summary>
    /// <param name="left">Rows that are of no use, with file, row and reason.</param>
    public List<Example> Load(out IReadOnlyList<string> left)
    {
        var sets = DatasetLoader.Read(DatasetFolder, Datasets, MaxSamples);
        left = [.. sets.Where(s => s.Skipped.Count > 0).SelectMany(s => s.Skipped.Prepend($"{s.Name}: {s.Skipped.Count} rows are left out:"))];
        List<Example> examples = [.. sets.SelectMany(s => s.Examples)];
        if (ValSize > 0) examples = DatasetLoader.Split(examples, ValSize, (int)Sampling.Seed).Evaluation;
        return System is null ? examples : [.. examples.Select(e => e with { System = e.System ?? System })];
    }

    /// <summary>
    /// Notes in the output folder what decides the predictions, or compares with what an earlier run noted. The adapter counts by its bytes: retrained under the same name it is another one.
    /// </summary>
    /// <exception cref="ArgumentException">The folder holds predictions of other settings; the message names the first difference.</exception>
    public void Claim()
    {
        var path = Path.Combine(OutputDir, FileName);
        var now = new JsonObject
        {
            ["model_name_or_path"] = Path.GetFullPath(Model.Path),
            ["adapter_name_or_path"] = Model.Adapter is null ? null : Path.GetFullPath(Model.Adapter),
            ["adapter_sha256"] = AdapterHash(),
            ["template"] = Model.Template.Name,
            ["infer_dtype"] = Model.Type.ToString(),
            ["default_system"] = System,
            ["eval_dataset"] = Datasets,
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
        };
        const string Otherwise = "choose another output_dir, or overwrite_output_dir=true to begin again";
        if (Overwrite) PredictionLog.Clear(OutputDir);
        else if (File.Exists(Path.Combine(OutputDir, Predictions.FileName)))
        {
            var noted = Noted(path, Otherwise)
                ?? throw new ArgumentException($"{OutputDir} holds {Predictions.FileName} without {FileName}, so nobody knows how it was made; {Otherwise}");
            foreach (var (key, before, after) in NotedSettings.Differences(noted, now))
                throw new ArgumentException($"{OutputDir} holds predictions made with {key} {before}, now it is {after}; {Otherwise}");
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

    internal static int Positive(Settings c, string key, int missing) => c.Int(key, missing) is > 0 and var value ? value : throw c.Wrong(key, "positive");

    private string? AdapterHash()
    {
        if (Model.Adapter is null) return null;
        using var file = File.OpenRead(Path.Combine(Model.Adapter, "adapter_model.safetensors"));
        return Convert.ToHexStringLower(SHA256.HashData(file));
    }
}
