using KtNotebooks.Models;
using KtNotebooks.Nn;

namespace KtNotebooks.Lora;

/// <summary>
/// The adapter of a model under PEFT's names: `base_model.model.{module path}.lora_A.weight` [r, in] and `.lora_B.weight` [out, r]; routed experts as if
/// each projection were a linear of its own, `….experts.{e}.gate_proj.lora_A.weight`; of DoRA `{module path}.lora_magnitude_vector` [out] too. The tensors
/// are views on what is trained.
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

    /// <summary>
    /// What is written of them: the same, but pairs that began as principal parts of the base go with their beginning (<see cref="LoraSettings.Written"/>).
    /// The caller disposes them.
    /// </summary>
    internal static IReadOnlyList<(string Name, Tensor Tensor)> Written(CausalLm model)
    {
        var starts = model.All().OfType<Linear>().Where(l => l.Adapter?.Start is not null).ToDictionary(l => l.Path, l => l.Adapter!);
        return [.. Of(model).Select(t =>
        {
            if (AdapterNames.IsMagnitude(t.Name) || !starts.TryGetValue(AdapterNames.ModuleOf(t.Name), out var lora)) return t;
            using (t.Tensor)
                return (t.Name, t.Name.EndsWith(".lora_A.weight", StringComparison.Ordinal) ? Stacked(lora.A, lora.Start!.Value.A)
                    : Beside(lora.B, lora.Start!.Value.B, 1 / lora.Scale));
        })];
    }

    private static Tensor Stacked(Tensor first, Tensor second) =>
        Tensor.From([.. first.ToFloats(), .. second.ToFloats()], first.Dim(0) + second.Dim(0), first.Width);

    private static Tensor Beside(Tensor first, Tensor second, float scale)
    {
        var (a, b, r) = (first.ToFloats(), second.ToFloats(), first.Width);
        var both = new float[2 * a.Length];
        for (var i = 0; i < a.Length; i++)
        {
            both[(i / r * 2 * r) + (i % r)] = a[i];
            both[(i / r * 2 * r) + r + (i % r)] = scale * b[i];
        }
        return Tensor.From(both, first.Dim(0), 2 * r);
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
            if (lora is LinearLora { Dora: { } dora }) all.Add(($"{Prefix}{module.Path}{AdapterNames.Magnitude}", pick(dora.Magnitudes)?.Alias()));
        }
        return all;

        Tensor? One(Tensor half, LoraTarget target, int e) => pick(half) is { } picked ? target.Of(picked, e) : null;
    }
}
