using System.Text.RegularExpressions;

namespace KtNotebooks.Lora;

/// <summary>How the pairs of routed experts are written.</summary>
public enum ExpertForm
{
    /// <summary>PEFT's names of single experts, `experts.7.up_proj.lora_A.weight`.</summary>
    Each,

    /// <summary>KTransformers' fused_expert_lora.safetensors.</summary>
    KTransformers,

    /// <summary>PEFT's target_parameters, as transformers 5, Unsloth and axolotl train fused experts and vLLM loads them.</summary>
    Parameters,
}

/// <summary>
/// Pairs of single experts put together as PEFT's target_parameters stores them (see <see cref="ParameterPairs"/>, which takes them apart). There gate and up
/// share A. Where those of every expert are equal the rank stays; else A_gate stands above A_up, [2r, D], B is block-diagonal, [2I, 2r], and all other pairs
/// get
/// as many rows and columns of zeros, so that one rank and one alpha hold for the file: every product is the same.
/// </summary>
internal static partial class ParameterForm
{
    /// <param name="tensors">By PEFT's names of single experts.</param>
    /// <param name="settings">Of them.</param>
    /// <param name="path">For errors.</param>
    /// <returns>Tensors and settings of the other form, and target_parameters.</returns>
    /// <exception cref="InvalidDataException">There are no pairs on experts, some are missing, or ranks differ.</exception>
    public static (IReadOnlyDictionary<string, AdapterTensor> Tensors, LoraSettings Settings, IReadOnlyList<string>? Targets) Join(
        IReadOnlyDictionary<string, AdapterTensor> tensors, LoraSettings settings, string path)
    {
        if (settings.RankPattern is not null || settings.AlphaPattern is not null)
            throw new InvalidDataException($"{path}: rank_pattern and alpha_pattern give modules ranks of their own, which pairs on parameters of experts "
                + "cannot have; write it with single experts (--experts peft)");
        var r = settings.Rank;
        var banks = tensors.Select(t => (Match: Single().Match(t.Key), t.Value)).Where(t => t.Match.Success)
            .GroupBy(t => t.Match.Groups["bank"].Value, StringComparer.Ordinal).OrderBy(g => g.Key, StringComparer.Ordinal)
            .Select(g => new Bank(g.Key, g.ToDictionary(t => (int.Parse(t.Match.Groups["e"].Value), t.Match.Groups["m"].Value, t.Match.Groups["half"].Value[0]),
                t => t.Value), path)).ToList();
        if (banks.Count == 0) throw new InvalidDataException($"{path}: the adapter has no routed experts to write");
        var doubled = !banks.TrueForAll(b => b.SharesA());
        var rank = doubled ? 2 * r : r;
        var result = new Dictionary<string, AdapterTensor>();
        foreach (var (name, tensor) in tensors)
            if (!Single().IsMatch(name)) result[name] = AdapterNames.IsMagnitude(name) ? tensor : Padded(name, tensor, rank);
        foreach (var bank in banks)
        {
            var (down, up) = (bank.Down(rank), bank.GateUp(r, rank));
            // PEFT wraps the parameters in the order of target_parameters: the first stands below base_layer.
            (result[$"{bank.Path}.base_layer.lora_A.weight"], result[$"{bank.Path}.base_layer.lora_B.weight"]) = up;
            (result[$"{bank.Path}.lora_A.weight"], result[$"{bank.Path}.lora_B.weight"]) = down;
        }
        var growth = !doubled ? 1 : settings.RankStabilised ? Math.Sqrt(2) : 2;
        return (result, settings with { Rank = rank, Alpha = settings.EffectiveAlpha * growth }, ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]);
    }

    /// <summary>A half with rows, or columns, of zeros up to a rank.</summary>
    private static AdapterTensor Padded(string name, AdapterTensor half, int rank)
    {
        var isA = name.EndsWith(".lora_A.weight", StringComparison.Ordinal);
        var (rows, columns) = (isA ? rank : (int)half.Shape[0], isA ? (int)half.Shape[1] : rank);
        return new AdapterTensor(half.File, half.Source, "F32", [rows, columns], () =>
        {
            var (from, to) = (half.Read(), new float[(long)rows * columns]);
            Put(from, (int)half.Shape[0], (int)half.Shape[1], to, columns, 0, 0);
            return to;
        });
    }

    /// <summary>A matrix into a larger one, from a row and a column on.</summary>
    private static void Put(float[] from, int rows, int columns, float[] to, int width, int row, int column)
    {
        for (var i = 0; i < rows; i++) from.AsSpan(i * columns, columns).CopyTo(to.AsSpan(((row + i) * width) + column));
    }

    /// <summary>The pairs of one layer's experts.</summary>
    private sealed class Bank
    {
        private readonly Dictionary<(int, string, char), AdapterTensor> _halves;
        private readonly string _file;

        public Bank(string path, Dictionary<(int E, string M, char Half), AdapterTensor> halves, string file)
        {
            (Path, _halves, _file, Count) = (path, halves, file, halves.Keys.Max(k => k.E) + 1);
            foreach (var m in (string[])["gate_proj", "up_proj", "down_proj"])
                for (var e = 0; e < Count; e++) _ = (Of(e, m, 'A'), Of(e, m, 'B'));
        }

        public string Path { get; }

        public int Count { get; }

        public bool SharesA() => Enumerable.Range(0, Count).All(e => Of(e, "gate_proj", 'A').Read().AsSpan().SequenceEqual(Of(e, "up_proj", 'A').Read()));

        /// <summary>Of gate_up_proj: A [E·rank, D], B [2I, E·rank].</summary>
        public (AdapterTensor A, AdapterTensor B) GateUp(int r, int rank)
        {
            int D = (int)Of(0, "gate_proj", 'A').Shape[1], I = (int)Of(0, "gate_proj", 'B').Shape[0];
            return Together("gate_up_proj", rank, D, 2 * I, (e, a, b) =>
            {
                Put(Of(e, "gate_proj", 'A').Read(), r, D, a, D, 0, 0);
                Put(Of(e, "gate_proj", 'B').Read(), I, r, b, rank, 0, 0);
                if (rank > r) Put(Of(e, "up_proj", 'A').Read(), r, D, a, D, r, 0);
                Put(Of(e, "up_proj", 'B').Read(), I, r, b, rank, I, rank - r);
            });
        }

        /// <summary>Of down_proj: A [E·rank, I], B [D, E·rank].</summary>
        public (AdapterTensor A, AdapterTensor B) Down(int rank)
        {
            int r = (int)Of(0, "down_proj", 'A').Shape[0], I = (int)Of(0, "down_proj", 'A').Shape[1], D = (int)Of(0, "down_proj", 'B').Shape[0];
            return Together("down_proj", rank, I, D, (e, a, b) =>
            {
                Put(Of(e, "down_proj", 'A').Read(), r, I, a, I, 0, 0);
                Put(Of(e, "down_proj", 'B').Read(), D, r, b, rank, 0, 0);
            });
        }

        /// <summary>Row e·rank + i of A is row i of expert e; column i·E + e of B is its column i.</summary>
        private (AdapterTensor A, AdapterTensor B) Together(string name, int rank, int inputs, int outputs, Action<int, float[], float[]> fill)
        {
            AdapterTensor Half(char half, long rows, long columns, Func<float[]> make) => new(_file, $"{Path}.{name} {half}", "F32", [rows, columns], make);
            (float[] A, float[] B) One(int e)
            {
                var (a, b) = (new float[rank * inputs], new float[outputs * rank]);
                fill(e, a, b);
                return (a, b);
            }
            return (Half('A', (long)Count * rank, inputs, () => [.. Enumerable.Range(0, Count).SelectMany(e => One(e).A)]),
                Half('B', outputs, (long)Count * rank, () =>
                {
                    var all = new float[(long)outputs * Count * rank];
                    for (var e = 0; e < Count; e++)
                    {
                        var b = One(e).B;
                        for (var o = 0; o < outputs; o++)
                            for (var i = 0; i < rank; i++) all[(o * Count * rank) + (i * Count) + e] = b[(o * rank) + i];
                    }
                    return all;
                }));
        }

        private AdapterTensor Of(int e, string m, char half) => _halves.GetValueOrDefault((e, m, half))
            ?? throw new InvalidDataException($"{_file}: '{Path}.{e}.{m}.lora_{half}.weight' is missing, so the experts of this layer cannot be put together");
    }

    [GeneratedRegex(@"\A(?<bank>.+\.experts)\.(?<e>[0-9]{1,6})\.(?<m>gate_proj|up_proj|down_proj)\.lora_(?<half>[AB])\.weight\z")]
    private static partial Regex Single();
}
