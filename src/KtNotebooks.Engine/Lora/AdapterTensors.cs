using KtNotebooks.Experts;
using KtNotebooks.Models;

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

    private static List<(string Name, Tensor? Tensor)> List(CausalLm model, Func<Tensor, Tensor?> pick)
    {
        List<(string, Tensor?)> all = [];
        foreach (var module in model.All())
        {
            if (module is Nn.Linear { Adapter: { } pair })
            {
                all.Add((Prefix + module.Path + ".lora_A.weight", pick(pair.A)?.Alias()));
                all.Add((Prefix + module.Path + ".lora_B.weight", pick(pair.B)?.Alias()));
            }
            if (module is not ExpertBank { Adapter: { } l } bank) continue;
            for (var e = 0; e < bank.Count; e++)
                foreach (var ((a, b), names) in l.Matrices.Zip(bank.Names.All))
                {
                    all.Add(($"{Prefix}{names.Module(e)}.lora_A.weight", One(pick(a), e)));
                    all.Add(($"{Prefix}{names.Module(e)}.lora_B.weight", One(pick(b), e)));
                }
        }
        return all;
    }

    private static Tensor? One(Tensor? stacked, int e)
    {
        if (stacked is null) return null;
        using var slice = stacked.Slice(e, 1);
        return slice.View(stacked.Dim(1), stacked.Dim(2));
    }
}
