using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>What of a model is trained, and how that is written and read again.</summary>
public interface IAdaptation
{
    /// <summary>Sets it to train.</summary>
    void Attach(CausalLm model);

    /// <param name="finished">The result of a run; else a checkpoint, from which a run goes on with the same bits.</param>
    void Save(CausalLm model, string folder, bool finished);

    /// <summary>Takes over what a checkpoint holds.</summary>
    void Load(CausalLm model, string folder);
}

/// <summary>finetuning_type: lora. An adapter beside frozen weights: a new one, or one to go on with.</summary>
/// <param name="lora">Of the new adapter, or of the one that is gone on with.</param>
/// <param name="basePath">The base's path, which the adapter names.</param>
/// <param name="first">The adapter to go on with; null: a new one.</param>
/// <param name="seed">Of a new one's weights.</param>
/// <param name="log">Hears where every tensor of an adapter that is read goes.</param>
public sealed class LoraAdaptation(LoraSettings lora, string basePath, string? first, ulong seed, Action<string>? log) : IAdaptation
{
    /// <summary>Of the adapter that is attached.</summary>
    public LoraSettings Settings { get; private set; } = lora;

    private string? _fingerprint; // of the base, before modules of it are trained

    public void Attach(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        _fingerprint = AdapterFolder.Fingerprint(model);
        if (first is null) LoraAdapter.Attach(model, Settings, seed);
        else
        {
            Settings = AdapterFolder.Load(model, first, log, Settings.Dropout);
            WholeModules.Unfreeze(model, Settings);
        }
    }

    /// <summary>lora_form: how the pairs of routed experts of the result are written; checkpoints have each by itself.</summary>
    public ExpertForm Form { get; init; }

    public void Save(CausalLm model, string folder, bool finished) =>
        AdapterFolder.Save(model, Settings, folder, basePath, finished ? Form : ExpertForm.Each, _fingerprint);

    public void Load(CausalLm model, string folder) => AdapterFolder.Resume(model, Settings, folder, log);
}

/// <summary>finetuning_type: full. Every weight of an F32 model with stacked experts; checkpoints keep F32, the finished model is BF16.</summary>
/// <param name="configPath">The model's config.json.</param>
/// <param name="tokenizer">Stands beside the weights.</param>
public sealed class FullAdaptation(string configPath, Tokenizer tokenizer) : IAdaptation
{
    public void Attach(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        model.Unfreeze();
    }

    public void Save(CausalLm model, string folder, bool finished)
    {
        ModelWriter.Save(model, configPath, folder, finished ? DType.BF16 : DType.F32);
        tokenizer.Save(folder);
    }

    public void Load(CausalLm model, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var checkpoint = new Checkpoint(folder);
        foreach (var (name, tensor) in model.AllWeights)
        {
            using var stored = checkpoint.Take(name, DType.F32, tensor.Shape);
            Memory.Copy(stored, tensor);
        }
        WeightVersion.Change();
    }
}
