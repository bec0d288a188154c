using System.Text.RegularExpressions;

using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>
/// KTransformers' fused_expert_lora.safetensors: the pairs of all routed experts of a layer stacked, BF16, six tensors a layer:
/// `layers.{L}.experts.{gate,up,down}_lora_a` [E, r, in] and `_lora_b` [E, out, r]. The scale alpha / r is not folded in; it stands in adapter_config.json
/// beside it.
/// </summary>
internal static partial class FusedExperts
{
    public const string FileName = "fused_expert_lora.safetensors";

    /// <summary>The most experts of a layer that a file may name; Kimi-K2 has 384.</summary>
    public const int MostExperts = 4096;

    /// <summary>Is a tensor under PEFT's name a routed expert's?</summary>
    public static bool IsExpert(string name) => PeftName().IsMatch(name);

    /// <summary>Every expert's halves under PEFT's names.</summary>
    /// <exception cref="InvalidDataException">A tensor that is none of the six.</exception>
    public static IEnumerable<(string Name, AdapterTensor Tensor)> Read(SafetensorsFile file)
    {
        foreach (var entry in file.Entries.Values)
        {
            var match = FusedName().Match(entry.Name);
            if (!match.Success || entry.Shape.Length != 3)
                throw new InvalidDataException($"{file.Path}: tensor '{entry.Name}' is {entry.Type}[{string.Join(", ", entry.Shape)}]; expected are " +
                    "layers.N.experts.gate_lora_a [E, r, in] and the like");
            if (entry.Shape[0] > MostExperts || entry.Shape.Contains(0))
                throw new InvalidDataException($"{file.Path}: tensor '{entry.Name}' is {entry.Type}[{string.Join(", ", entry.Shape)}]; experts are 1 " +
                    $"to {MostExperts:N0}, and no side is 0");
            var half = match.Groups[3].Value == "a" ? "A" : "B";
            for (var e = 0; e < entry.Shape[0]; e++)
            {
                var expert = e;
                yield return ($"{AdapterTensors.Prefix}model.layers.{match.Groups[1].Value}.mlp.experts.{e}.{match.Groups[2].Value}_proj.lora_{half}.weight",
                    new AdapterTensor(file.Path, $"{entry.Name}[{e}]", entry.Type.ToString(), entry.Shape[1..], () =>
                    {
                        using var all = file.Get(entry.Name);
                        using var one = all.Slice(expert, 1);
                        return AdapterSource.Floats(one);
                    }));
            }
        }
    }

    /// <summary>Stacks the routed experts among the tensors.</summary>
    /// <exception cref="InvalidDataException">A missing expert, or experts of different shapes.</exception>
    public static void Write(string path, IReadOnlyDictionary<string, AdapterTensor> tensors, Action<string>? log = null)
    {
        var stacks = tensors.Select(t => (Match: PeftName().Match(t.Key), Tensor: t.Value)).Where(t => t.Match.Success)
            .GroupBy(t => (Layer: int.Parse(t.Match.Groups[1].Value), Key: $"{t.Match.Groups[3].Value}_lora_{t.Match.Groups[4].Value.ToLowerInvariant()}"))
            .OrderBy(g => g.Key.Layer).ThenBy(g => g.Key.Key, StringComparer.Ordinal).ToList();
        if (stacks.Count == 0) throw new InvalidDataException($"{path}: the adapter has no routed experts to write");
        List<(string, Tensor)> fused = [];
        try
        {
            foreach (var stack in stacks)
            {
                var name = $"layers.{stack.Key.Layer}.experts.{stack.Key.Key}";
                var experts = stack.OrderBy(t => int.Parse(t.Match.Groups[2].Value)).ToList();
                var shape = experts[0].Tensor.Shape;
                for (var e = 0; e < experts.Count; e++)
                {
                    if (int.Parse(experts[e].Match.Groups[2].Value) != e)
                        throw new InvalidDataException($"{path}: '{name}' needs expert {e}, which the adapter does not have");
                    if (!experts[e].Tensor.Shape.SequenceEqual(shape))
                        throw new InvalidDataException($"{path}: '{name}' needs experts of one shape, but expert {e} is {experts[e].Tensor} and expert "
                            + $"0 {experts[0].Tensor}");
                }
                var all = Tensor.Empty(DType.BF16, [experts.Count, .. shape]);
                fused.Add((name, all));
                for (var e = 0; e < experts.Count; e++)
                {
                    using var one = all.Slice(e, 1);
                    one.Store(experts[e].Tensor.Read());
                    log?.Invoke($"Loaded adapter weight: {experts[e].Tensor.Source} -> {name}[{e}]");
                }
            }
            SafetensorsWriter.Write(path, fused);
        }
        finally
        {
            foreach (var (_, tensor) in fused) tensor.Dispose();
        }
    }

    [GeneratedRegex(@"^layers\.([0-9]{1,6})\.experts\.(gate|up|down)_lora_(a|b)\z")]
    private static partial Regex FusedName();

    [GeneratedRegex(@"^base_model\.model\.model\.layers\.([0-9]{1,6})\.mlp\.experts\.([0-9]{1,6})\.(gate|up|down)_proj\.lora_(A|B)\.weight\z")]
    private static partial Regex PeftName();
}
