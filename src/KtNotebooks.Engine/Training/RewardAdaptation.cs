using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>stage: rm. An adapter and a value head, which has a file of its own beside it, as LLaMA-Factory writes and reads it.</summary>
/// <param name="adapter">The adapter.</param>
/// <param name="first">The folder whose value head is gone on with, if it has one; null: a new one.</param>
/// <param name="seed">Of a new one.</param>
public sealed class RewardAdaptation(IAdaptation adapter, string? first, ulong seed) : IAdaptation
{
    public const string FileName = AdapterFolder.ValueHead;

    public void Attach(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        adapter.Attach(model);
        model.ValueHead = ValueHead.Fresh(model.Info.Width, model.Norm.Device, seed);
        if (first is not null && File.Exists(Path.Combine(first, FileName))) Read(model.ValueHead, first);
    }

    public void Save(CausalLm model, string folder, bool finished)
    {
        ArgumentNullException.ThrowIfNull(model);
        adapter.Save(model, folder, finished);
        SafetensorsWriter.Write(Path.Combine(folder, FileName), [.. model.ValueHead!.Trainable.Select(p => (p.Name, p.Tensor))]);
    }

    public void Load(CausalLm model, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        adapter.Load(model, folder);
        Read(model.ValueHead!, folder);
    }

    /// <summary>The value head of a folder, the caller's; null: it has none.</summary>
    /// <exception cref="InvalidDataException">A tensor is missing, or of another model.</exception>
    public static ValueHead? HeadOf(CausalLm model, string folder)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (!File.Exists(Path.Combine(folder, FileName))) return null;
        var head = ValueHead.Fresh(model.Info.Width, model.Norm.Device, 0);
        try
        {
            Read(head, folder);
            return head;
        }
        catch
        {
            head.Dispose();
            throw;
        }
    }

    private static void Read(ValueHead head, string folder)
    {
        using var file = new SafetensorsFile(Path.Combine(folder, FileName));
        foreach (var (name, tensor) in head.Trainable)
        {
            using var stored = file.Get(name);
            if (stored.Count != tensor.Count)
                throw new InvalidDataException($"{file.Path}: '{name}' must hold {tensor.Count} values for this model, but is {stored}");
            using var host = Tensor.From(stored.ToFloats(), tensor.Shape);
            Memory.Copy(host, tensor);
        }
    }
}
