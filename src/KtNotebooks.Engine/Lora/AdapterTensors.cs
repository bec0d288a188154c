using KtNotebooks.Models;
using KtNotebooks.Nn;

namespace KtNotebooks.Lora;

/// <summary>
/// The adapter of a model under PEFT's names: `base_model.model.{module path}.lora_A.weight` [r, in] and `.lora_B.weight` [out, r]; routed experts as if
/// each projection were a linear of its own, `….experts.{e}.gate_proj.lora_A.weight`. The tensors are views on what is trained.
/// </summary>
public static class AdapterTensors
{
    public const string Prefix = "base_model.model.";

    /// <summary>All pairs in model order. The caller disposes the views.</summary>
    public static IReadOnlyList<(string Name, Tensor Tensor)> Of(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return [.. List(model, pair => pair).Select(p => (p.Name, p.Tensor!))];
    }

    /// <summary>The gradients of all pairs under the same names; null where a tensor has none.</summary>
    public static IReadOnlyList<(string Name, Tensor? Tensor)> GradientsOf(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return List(model, pair => pair.Grad);
    }

    /// <summary>A name as PEFT has it for the whole model, where the one here is a part of it.</summary>
    internal static string Stored(string name, CausalLm model) => Prefix + model.TensorPrefix + name[Prefix.Length..];

    private static List<(string Name, Tensor? Tensor)> List(CausalLm model, Func<Tensor, Tensor?> pick)
    {
        List<(string, Tensor?)> all = [];
        foreach (var module in model.All().OfType<IAdaptable>())
        {
            if (module.Adapter is not { } lora) continue;
            var pairs = module.Targets.Zip(lora.Pairs).ToArray();
            for (var e = 0; e < pairs[0].First.Count; e++)
                foreach (var (target, (a, b)) in pairs)
                {
                    all.Add(($"{Prefix}{target.PathOf(e)}.lora_A.weight", One(a, target, e)));
                    all.Add(($"{Prefix}{target.PathOf(e)}.lora_B.weight", One(b, target, e)));
                }
        }
        return all;

        Tensor? One(Tensor half, LoraTarget target, int e) => pick(half) is { } picked ? target.Of(picked, e) : null;
    }
}
