using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Files;

namespace KtNotebooks.Training;

/// <summary>
/// README.md of an adapter, as Hugging Face's trainer and LLaMA-Factory leave one: base, data, settings and losses, with the front matter that a
/// model page reads.
/// </summary>
internal static class ModelCard
{
    public const string FileName = "README.md";

    /// <summary>Who writes into the card removes this line, and it stays as it is.</summary>
    private const string Mark =
        "<!-- Written by kt train. A later run writes the card anew while this line is in it: remove the line when you change something. -->";

    private static readonly string[] Shown =
    [
        "template", "cutoff_len", "finetuning_type", "freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules", "train_router",
        "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "lora_experts", "learning_rate", "lr_scheduler_type",
        "warmup_ratio", "warmup_steps", "per_device_train_batch_size",
        "gradient_accumulation_steps", "num_train_epochs", "max_steps", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay",
        "loss_reduction", "infer_dtype", "seed",
    ];

    /// <summary>Writes the card unless a person's README.md is there; returns whether it did.</summary>
    public static bool Write(string folder, FineTuneKeys keys, RunIdentity identity, TrainResult result, TrainerState state)
    {
        var path = Path.Combine(folder, FileName);
        if (File.Exists(path) && !RegularFile.ReadAllText(path, "a model card").Contains(Mark, StringComparison.Ordinal)) return false;
        AtomicFile.WriteText(path, Text(Path.GetFileName(Path.GetFullPath(folder)), keys, identity, result, state));
        return true;
    }

    private static string Text(string name, FineTuneKeys keys, RunIdentity identity, TrainResult result, TrainerState state)
    {
        var card = new StringBuilder();
        void Line(FormattableString line) => card.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');
        var held = result.EvalLoss is { } loss ? $"- Loss of the held-out rows: {loss.ToString("F4", CultureInfo.InvariantCulture)}\n" : "";
        card.Append(
            $"""
            ---
            library_name: {(keys.Trained is null ? "peft" : "transformers")}
            license: other
            base_model: {YamlText.Scalar(keys.ModelPath)}
            pipeline_tag: text-generation
            tags:
            - ktnotebooks
            - {keys.Trained?.Word ?? "lora"}
            - {keys.Objective.Stage}
            - generated_from_trainer
            ---

            {Mark}

            # {name}

            {(keys.Trained is null ? "A LoRA adapter for" : "The weights of")} {keys.ModelPath}, trained on {keys.Data.Names}.

            - Mean loss of the training: {state.MeanLoss.ToString("F4", CultureInfo.InvariantCulture)}
            {held}
            ## Settings


            """);
        var config = identity.Config.ToDictionary(v => v.Key, v => v.Value);
        foreach (var key in keys.Objective.Identity.Select(value => value.Key).Concat(Shown).Distinct())
        {
            if (config.GetValueOrDefault(key) is not { } value) continue;
            Line($"- {key}: {(value.GetValueKind() == JsonValueKind.String ? value.GetValue<string>() : value.ToJsonString())}");
        }
        card.Append($"\n`{FineTuneFiles.ArgumentsFile}` holds all of them.\n\n## Losses\n\n");
        Table(state.History, Line);
        return card.ToString();
    }

    /// <summary>At most thirty lines of the history, the last among them.</summary>
    private static void Table(JsonArray history, Action<FormattableString> line)
    {
        const int Most = 30;
        var steps = history.OfType<JsonObject>().Where(e => e["step"] is not null && (e["loss"] ?? e["eval_loss"]) is not null)
            .GroupBy(e => e["step"]!.GetValue<int>()).ToList();
        line($"| step | epoch | loss | eval_loss |");
        line($"|---|---|---|---|");
        var stride = (steps.Count + Most - 1) / Most;
        foreach (var events in steps.Where((_, i) => (steps.Count - 1 - i) % stride == 0))
        {
            double? Value(string key) => events.Select(e => e[key]).LastOrDefault(v => v is not null)?.GetValue<double>();
            string Of(string key) => Value(key)?.ToString("F4", CultureInfo.InvariantCulture) ?? "";
            line($"| {events.Key} | {Of("epoch")} | {Of("loss")} | {Of("eval_loss")} |");
        }
    }
}
