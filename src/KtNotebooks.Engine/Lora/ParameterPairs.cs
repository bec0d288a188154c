using System.Text.RegularExpressions;

namespace KtNotebooks.Lora;

/// <summary>
/// Pairs on parameters of fused experts, as PEFT's target_parameters stores them (ParamWrapper; Unsloth, axolotl and transformers write the same): of a layer's
/// gate_up_proj [E, 2I, D] and down_proj [E, D, I] an A [E·r, in] whose row e·r + i is row i of expert e, and a B [out, E·r] whose column i·E + e is column i
/// of expert e. The first of the two parameters stands below `base_layer`. Here each expert's projection gets a pair of its own; gate and up share A, and take
/// the upper and the lower half of B.
/// </summary>
internal static partial class ParameterPairs
{
    /// <summary>The tensors with those on parameters of experts put in their place by pairs of single experts.</summary>
    /// <param name="tensors">By PEFT's names.</param>
    /// <param name="settings">Ranks.</param>
    /// <param name="targets">target_parameters; empty: there are no such tensors.</param>
    /// <param name="path">Of the config, for errors.</param>
    /// <exception cref="InvalidDataException">A half is missing, or shapes do not go together.</exception>
    public static Dictionary<string, AdapterTensor> Split(Dictionary<string, AdapterTensor> tensors, LoraSettings settings, IReadOnlyList<string> targets,
        string path)
    {
        var result = new Dictionary<string, AdapterTensor>();
        var pairs = new SortedDictionary<string, Dictionary<string, AdapterTensor>>(StringComparer.Ordinal);
        foreach (var (name, tensor) in tensors)
        {
            var match = Name().Match(name);
            if (targets.Count == 0 || !match.Success) result[name] = tensor;
            else
            {
                if (!pairs.TryGetValue(match.Groups["bank"].Value, out var bank)) pairs[match.Groups["bank"].Value] = bank = [];
                bank[$"{(match.Groups["inner"].Success ? "inner" : "outer")} {match.Groups["half"].Value}"] = tensor;
            }
        }
        if (targets.Count > 0 && pairs.Count == 0)
            throw new InvalidDataException($"{path}: 'target_parameters' names {string.Join(", ", targets)}, but the file holds no pair on parameters of "
                + "experts");
        foreach (var (bank, halves) in pairs)
        {
            (Pair Pair, bool IsGateUp)[] named = [.. Named(bank, halves, targets, path)];
            foreach (var (pair, isGateUp) in named) Add(result, bank, pair, isGateUp, settings, path);
            // The experts of a layer have pairs on all of their projections or on none: those of the other parameter change nothing.
            if (named is [var (one, isFirst)]) Add(result, bank, Zero(one, isFirst), !isFirst, settings, path);
        }
        return result;
    }

    private readonly record struct Pair(AdapterTensor A, AdapterTensor B);

    /// <summary>Which pair is whose: of two the one whose output is twice the other's input is gate_up_proj.</summary>
    private static IEnumerable<(Pair Pair, bool IsGateUp)> Named(string bank, Dictionary<string, AdapterTensor> halves, IReadOnlyList<string> targets,
        string path)
    {
        Pair? Of(string place) => (halves.GetValueOrDefault($"{place} A"), halves.GetValueOrDefault($"{place} B")) switch
        {
            (null, null) => null,
            ({ } a, { } b) => new Pair(a, b),
            _ => throw new InvalidDataException($"{path}: of a pair on parameters of {bank} one half is missing"),
        };
        var (outer, inner) = (Of("outer"), Of("inner"));
        if (outer is { } one && inner is { } two)
        {
            static bool AreGateUpAndDown(Pair gateUp, Pair down) => gateUp.B.Shape[0] == 2 * down.A.Shape[1] && gateUp.A.Shape[1] == down.B.Shape[0];
            if (AreGateUpAndDown(one, two) == AreGateUpAndDown(two, one))
                throw new InvalidDataException($"{path}: the pairs on parameters of {bank}, {one.A} with {one.B} and {two.A} with {two.B}, are not those of "
                    + "gate_up_proj [E, 2I, D] and down_proj [E, D, I]; adapters of PEFT before 0.18 have other shapes: save this one with a newer PEFT");
            return [(one, AreGateUpAndDown(one, two)), (two, AreGateUpAndDown(two, one))];
        }
        string[] words = [.. targets.Select(t => t[(t.LastIndexOf('.') + 1)..]).Distinct()];
        return words is ["gate_up_proj"] or ["down_proj"] ? [((outer ?? inner)!.Value, words[0] == "gate_up_proj")]
            : throw new InvalidDataException($"{path}: 'target_parameters' must be gate_up_proj, down_proj or both of the experts, but is "
                + string.Join(", ", words));
    }

    /// <summary>A pair of the other parameter that changes nothing: down_proj [E, D, I] beside gate_up_proj [E, 2I, D], or the other way round.</summary>
    private static Pair Zero(Pair beside, bool isGateUp)
    {
        var (inputs, outputs) = isGateUp ? (beside.B.Shape[0] / 2, beside.A.Shape[1]) : (beside.B.Shape[0], 2 * beside.A.Shape[1]);
        AdapterTensor Zeros(AdapterTensor like, long rows, long columns) =>
            new(like.File, "zero", "F32", [rows, columns], () => new float[rows * columns]);
        return new Pair(Zeros(beside.A, beside.A.Shape[0], inputs), Zeros(beside.B, outputs, beside.B.Shape[1]));
    }

    private static void Add(Dictionary<string, AdapterTensor> all, string bank, Pair pair, bool isGateUp, LoraSettings settings, string path)
    {
        var (a, b, rank) = (pair.A, pair.B, settings.Rank);
        if (a.Shape.Length != 2 || b.Shape.Length != 2 || a.Shape[0] != b.Shape[1] || a.Shape[0] % rank != 0 || (isGateUp && b.Shape[0] % 2 != 0))
            throw new InvalidDataException($"{path}: '{a.Source}' is {a} and '{b.Source}' is {b}, which are no pairs of rank {rank} on parameters of experts");
        var (experts, inputs, outputs) = ((int)(a.Shape[0] / rank), (int)a.Shape[1], (int)b.Shape[0]);
        if (experts > FusedExperts.MostExperts)
            throw new InvalidDataException($"{path}: '{a.Source}' would be of {experts} experts; at most {FusedExperts.MostExperts:N0} are taken");
        var (readA, readB) = (new Lazy<float[]>(a.Read), new Lazy<float[]>(b.Read));
        (string Name, int From, int Count)[] parts = isGateUp ? [("gate_proj", 0, outputs / 2), ("up_proj", outputs / 2, outputs / 2)]
            : [("down_proj", 0, outputs)];
        for (var e = 0; e < experts; e++)
            foreach (var (name, from, count) in parts)
            {
                var expert = e;
                all[$"{bank}.{e}.{name}.lora_A.weight"] = new AdapterTensor(a.File, $"{a.Source}[{e}]", a.Type, [rank, inputs],
                    () => readA.Value[(expert * rank * inputs)..((expert + 1) * rank * inputs)]);
                all[$"{bank}.{e}.{name}.lora_B.weight"] = new AdapterTensor(b.File, $"{b.Source}[{e}, {name}]", b.Type, [count, rank], () =>
                {
                    var values = new float[count * rank];
                    for (var o = 0; o < count; o++)
                        for (var i = 0; i < rank; i++) values[(o * rank) + i] = readB.Value[((from + o) * rank * experts) + (i * experts) + expert];
                    return values;
                });
            }
    }

    [GeneratedRegex(@"\A(?<bank>.+\.experts)(?<inner>\.base_layer)?\.lora_(?<half>[AB])\.weight\z")]
    private static partial Regex Name();
}
