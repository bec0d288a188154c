using KtNotebooks.Data;

namespace KtNotebooks.Configuration;

/// <summary>The keys of a configuration that say which data is used and how, by LLaMA-Factory's names and defaults.</summary>
public static class DataKeys
{
    /// <summary>template, enable_thinking (true, false or null), default_system, tool_format.</summary>
    public static Template ReadTemplate(Settings c)
    {
        var template = Templates.Get(c.Text("template", "empty")) with { EnableThinking = c.FlagOrNull("enable_thinking", missing: true) };
        if (c.Text("default_system") is { } system)
            template = template with { DefaultSystem = system };
        return c.Text("tool_format") is null ? template : template with
        {
            Tools = c.OneOf("tool_format", "default", "default", "qwen", "glm4") switch { "qwen" => ToolForm.Qwen, "glm4" => ToolForm.Glm4, _ => ToolForm.Plain },
        };
    }

    /// <summary>dataset_dir, dataset, eval_dataset, cutoff_len, max_samples, val_size, mix_strategy, interleave_probs, train_on_prompt, mask_history, packing, neat_packing, preprocessing_batch_size, overwrite_cache, seed, and the template's.</summary>
    public static DataSettings Read(Settings c)
    {
        double[]? chances = c.List("interleave_probs") is not { } list ? null
            : [.. list.Select(p => double.TryParse(p, System.Globalization.CultureInfo.InvariantCulture, out var chance) ? chance : throw c.Wrong("interleave_probs", "a list of numbers"))];
        var (packing, neat) = (c.Flag("packing"), c.Flag("neat_packing"));
        return new DataSettings
        {
            Folder = c.Text("dataset_dir", "datasets"),
            Names = c.Required("dataset"),
            Evaluation = c.Text("eval_dataset"),
            Template = ReadTemplate(c),
            Cutoff = Positive(c, "cutoff_len", 2048),
            MaxSamples = c.Int("max_samples"),
            ValSize = c.Number("val_size", 0),
            MixStrategy = c.OneOf("mix_strategy", "concat", [.. Mixing.Strategies]),
            Probabilities = chances,
            TrainOnPrompt = c.Flag("train_on_prompt"),
            MaskHistory = c.Flag("mask_history"),
            Packing = neat ? PackingMode.Neat : packing ? PackingMode.Shared : PackingMode.None,
            PackingHorizon = Positive(c, "preprocessing_batch_size", 1000),
            Seed = c.Int("seed", 42),
            OverwriteCache = c.Flag("overwrite_cache"),
        };
    }

    private static int Positive(Settings c, string key, int missing) => c.Int(key, missing) is > 0 and var value ? value : throw c.Wrong(key, "positive");
}
