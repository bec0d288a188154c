using KtNotebooks.Formats;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>
/// finetuning_type: full and freeze. A model's own weights; what is written is a model's folder as Hugging Face has it, with the base's other tensors, config,
/// tokenizer and code. A checkpoint holds what is trained in the type of memory, from which a run goes on with the same bits; the finished model has the
/// base's types.
/// </summary>
/// <param name="basePath">model_name_or_path.</param>
/// <param name="trains">Which weights, by name.</param>
public sealed class WeightAdaptation(string basePath, Func<string, bool> trains) : IAdaptation
{
    public void Attach(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        model.Unfreeze(trains);
    }

    public void Save(CausalLm model, string folder, bool finished)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var checkpoint = new Checkpoint(basePath);
        var trained = model.AllWeights.Where(w => trains(w.Name)).ToDictionary(w => w.Name, w => w.Tensor);
        NewTensor Announced(string name) => trained.TryGetValue(name, out var tensor) && !finished ? new NewTensor(name, tensor.Type, tensor.Shape.ToArray())
            : new NewTensor(name, checkpoint.Entry(name).Type, checkpoint.Entry(name).Shape);
        Tensor Make(NewTensor t) => trained.TryGetValue(t.Name, out var tensor) ? Typed(tensor, t.Type) : checkpoint.Stored(t.Name);
        ShardedFolder.Write(folder, ShardedFolder.Cut(checkpoint.Names.Select(name => (IReadOnlyList<NewTensor>)[Announced(name)]), ShardedFolder.ShardBytes),
            Make, checkpoint.StoredName);
        ShardedFolder.Copy(ShardedFolder.BesideWeights(basePath).Files, folder, "output_dir");
    }

    public void Load(CausalLm model, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        using var checkpoint = new Checkpoint(folder);
        foreach (var (name, tensor) in model.AllWeights.Where(w => trains(w.Name)))
        {
            using var stored = checkpoint.Take(name, tensor.Type, tensor.Shape);
            Memory.Copy(stored, tensor);
        }
        WeightVersion.Change();
    }

    /// <summary>Fails where a weight that is to be trained is stored in few bits, or in one tensor with others.</summary>
    /// <exception cref="NotSupportedException">It is; it is named, with what to do.</exception>
    public static void RequirePlain(string basePath, CausalLm shape, Func<string, bool> trains)
    {
        ArgumentNullException.ThrowIfNull(shape);
        using var checkpoint = new Checkpoint(basePath);
        foreach (var (name, _) in shape.AllWeights.Where(w => trains(w.Name)))
        {
            if (checkpoint.Has(name) && checkpoint.Entry(name).Type.IsFloat()) continue;
            var stored = StorageFormat.All.FirstOrDefault(f => f.Stored is { } form && f.IsLowBit && checkpoint.Has(name + form.Data));
            if (stored is null && checkpoint.Has(name)) continue; // F16: taken as any other
            var how = stored is null ? "not stored as a tensor of its own" : $"stored as {stored.Name}";
            var instead = stored == StorageFormat.Fp8 ? "kt convert makes a BF16 checkpoint of it, or give finetuning_type: lora"
                : "give finetuning_type: lora, or a BF16 checkpoint";
            throw new NotSupportedException($"{basePath}: '{name}' is {how}, and cannot be trained itself; {instead}");
        }
    }

    private static Tensor Typed(Tensor tensor, DType type)
    {
        if (tensor.Type == type) return tensor.ToHost();
        using var host = tensor.ToHost();
        return MergedTensor.Round(host.ToFloats(), type, host.Shape);
    }
}
