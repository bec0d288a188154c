using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;
using KtNotebooks.Weights;

namespace KtNotebooks.Generation;

/// <summary>
/// The keys by which everything that only runs a model names it: model_name_or_path, adapter_name_or_path, template, infer_dtype, log_level, and where its weights live. Reading comes before loading, so that a
/// wrong key is named before gigabytes are read.
/// </summary>
public sealed record ModelKeys(string Path, string? Adapter, Template Template, DType Type, PlacementSettings Placement)
{
    /// <summary>Hears where every tensor of an adapter goes; null: nobody asked.</summary>
    public Action<string>? Log { get; init; }

    public static ModelKeys Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var keys = new ModelKeys(c.Required("model_name_or_path"), c.Text("adapter_name_or_path"), DataKeys.ReadTemplate(c),
            c.OneOf("infer_dtype", "auto", "auto", "float32", "bfloat16") == "float32" ? DType.F32 : DType.BF16,
            PlacementSettings.Read(c))
        {
            Log = LogLevel.Debug(c),
        };
        c.OneOf("infer_backend", "huggingface", "huggingface", "ktransformers");
        c.OneOf("finetuning_type", "lora", "lora");
        c.WithoutEffect("trust_remote_code", "use_kt");
        if (keys.Placement.Threads is { } threads) RowParallel.Threads = threads;
        return keys;
    }

    /// <summary>do_sample, temperature, top_p, top_k, max_new_tokens, repetition_penalty, seed.</summary>
    /// <param name="c">The config.</param>
    /// <param name="missing">What counts where a key is not given; null: LLaMA-Factory's defaults.</param>
    public static Sampling ReadSampling(Settings c, Sampling? missing = null)
    {
        ArgumentNullException.ThrowIfNull(c);
        missing ??= new Sampling();
        return new Sampling(c.Int("max_new_tokens", missing.MaxNewTokens), c.Flag("do_sample", missing.DoSample), c.Number("temperature", missing.Temperature), c.Number("top_p", missing.TopP),
            c.Int("top_k", missing.TopK), c.Number("repetition_penalty", missing.RepetitionPenalty), (ulong)c.Int("seed", 42)).Checked();
    }

    /// <summary>Tokenizer and model with the adapter on it. The caller disposes the model.</summary>
    /// <param name="loading">Told how far the model has come in.</param>
    public (CausalLm Model, Tokenizer Tokenizer) Load(Action<WorkProgress>? loading = null)
    {
        var tokenizer = Tokenizer.Load(Path);
        var placement = ModelFolder.Place(Path, Placement);
        placement.RequireDevices();
        var model = ModelFolder.Load(Path, Type, placement, new LoadSettings(Report: loading));
        try
        {
            if (Adapter is not null) AdapterFolder.Load(model, Adapter, Log);
            return (model, tokenizer);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }
}
