using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>The identity of a fine-tuning run: its keys with their defaults, and hashes of the rows, the base and the adapter that it begins with.</summary>
internal static class FineTuneIdentity
{
    /// <param name="keys">Of the config.</param>
    /// <param name="c">The config, for keys that are not listed here.</param>
    /// <param name="rows">Hash of what is learned.</param>
    /// <param name="totalSteps">Of the run.</param>
    /// <param name="model">With its adapter, before the first step; null: not loaded yet.</param>
    /// <param name="whole">Modules that its adapter has whole.</param>
    public static RunIdentity Of(FineTuneKeys keys, Settings c, string rows, int totalSteps, CausalLm? model, IReadOnlyList<string>? whole = null)
    {
        var (lora, t, data) = (keys.Lora, keys.Training, keys.Data);
        List<(string, JsonNode?)> all =
        [
            .. keys.Objective.Identity, // what it says of a key holds
            ("template", data.Template.Name), ("dataset", data.Names), ("cutoff_len", data.Cutoff), ("max_samples", data.MaxSamples),
            ("val_size", data.ValSize), ("mix_strategy", data.MixStrategy),
            ("interleave_probs", data.Probabilities is { } chances ? new JsonArray([.. chances.Select(p => JsonValue.Create(p))]) : null),
            ("train_on_prompt", data.TrainOnPrompt), ("mask_history", data.MaskHistory), ("packing", data.Packing != PackingMode.None),
            ("neat_packing", data.Packing == PackingMode.Neat),
            .. keys.Trained?.Identity ?? [("lora_rank", lora.Rank), ("lora_alpha", lora.EffectiveAlpha), ("lora_dropout", lora.Dropout),
                ("lora_target", lora.Target is { } targets ? string.Join(",", targets) : "all"), ("lora_experts", lora.Experts)],
            ("learning_rate", t.LearningRate), ("lr_scheduler_type", t.Schedule), ("warmup_ratio", t.WarmupRatio), ("warmup_steps", t.WarmupSteps),
            ("max_grad_norm", t.MaxGradientNorm), ("optim", t.Optimizer == "adamw" ? null : t.Optimizer),
            ("adam_beta1", t.Adam.Beta1), ("adam_beta2", t.Adam.Beta2), ("adam_epsilon", t.Adam.Eps), ("weight_decay", t.Adam.WeightDecay), ("seed", t.Seed),
            ("per_device_train_batch_size", keys.Batch), ("gradient_accumulation_steps", keys.Accumulation),
            ("loss_reduction", keys.Reduction == LossReduction.Micro ? "micro" : "token"),
            ("infer_dtype", keys.Type == DType.F32 ? "float32" : "bfloat16"), ("num_train_epochs", keys.Epochs), ("max_steps", keys.MaxSteps),
            ("rows of dataset (sha256)", rows),
        ];
        if (model is not null)
        {
            all.Add(("weights of model_name_or_path (fingerprint)", AdapterFolder.Fingerprint(model)));
            if (keys.Adapter is not null) all.Add(("weights of adapter_name_or_path (sha256)", HashOf(model, whole)));
        }
        var acting = c.Given.Where(given => c.Asked.Contains(given.Key)).ToDictionary();
        return new RunIdentity([.. all.DistinctBy(value => value.Item1)], acting, totalSteps);
    }

    public static string HashOf(IReadOnlyList<EncodedExample> rows)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var row in rows)
        {
            hash.AppendData(MemoryMarshal.AsBytes<int>([row.Ids.Length, row.Starts.Length, (row.Apart ? 1 : 0) + (2 * row.Tag)]));
            if (row.Weight != 1) hash.AppendData(MemoryMarshal.AsBytes<float>([row.Weight]));
            foreach (var numbers in new[] { row.Ids, row.Labels, row.Starts }) hash.AppendData(MemoryMarshal.AsBytes<int>(numbers));
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset())[..16];
    }

    private static string HashOf(CausalLm model, IReadOnlyList<string>? whole)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var (_, tensor) in AdapterTensors.Of(model).Concat(WholeModules.Of(model, whole)))
            using (tensor) hash.AppendData(MemoryMarshal.AsBytes<float>(tensor.ToFloats()));
        return Convert.ToHexStringLower(hash.GetHashAndReset())[..16];
    }
}
