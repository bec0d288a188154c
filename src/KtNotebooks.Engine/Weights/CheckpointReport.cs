using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>What one part of a model holds: embedding, attention, routed experts, … Bytes include scales.</summary>
public sealed record PartSize(string Part, long Parameters, long Bytes, IReadOnlyDictionary<string, long> BytesByFormat);

/// <summary>
/// What quantisation does to the routed experts of one projection of a layer: relative error √(Σ(q − w)² / Σw²) over the measured experts, and how the same
/// figure is spread over the blocks that share a scale (128×128, a row, 32 neighbours): counts by <see cref="CheckpointReport.ErrorEdges"/>.
/// </summary>
public sealed record LayerError(int Layer, string Projection, int Experts, double Relative, double WorstBlock, long[] Blocks);

/// <summary>A checkpoint seen from outside, for `kt model inspect` and pictures: parameters, bytes and formats by part; quantisation errors by layer.</summary>
public static class CheckpointReport
{
    /// <summary>Upper edges of the error histogram: steps of half a percent up to 25 %; the last bin holds all above.</summary>
    public static IReadOnlyList<double> ErrorEdges { get; } = [.. Enumerable.Range(1, 50).Select(i => i * 0.005)];

    /// <summary>Sizes by part, in the order of the forward pass.</summary>
    public static IReadOnlyList<PartSize> Parts(Checkpoint checkpoint)
    {
        ArgumentNullException.ThrowIfNull(checkpoint);
        var parts = Order.ToDictionary(p => p, _ => (Parameters: 0L, Formats: new SortedDictionary<string, long>(StringComparer.Ordinal)));
        foreach (var name in checkpoint.Names)
        {
            var entry = checkpoint.Entry(name);
            var packed = name.EndsWith("_packed", StringComparison.Ordinal);
            var attached = name.EndsWith("_scale_inv", StringComparison.Ordinal) || name.EndsWith("_scale", StringComparison.Ordinal)
                || name.EndsWith("_shape", StringComparison.Ordinal);
            var format = packed || (attached && !name.EndsWith("_scale_inv", StringComparison.Ordinal)) ? "int4"
                : attached || entry.Type == DType.F8E4M3 ? "fp8" : entry.Type.ToString().ToLowerInvariant();
            var part = parts[PartOf(name)];
            part.Formats[format] = part.Formats.GetValueOrDefault(format) + entry.End - entry.Begin;
            var count = entry.Shape.Aggregate(1L, (a, b) => a * b);
            parts[PartOf(name)] = part with { Parameters = part.Parameters + (attached ? 0 : packed ? count * 8 : count) };
        }
        return [.. Order.Where(p => parts[p].Formats.Count > 0)
            .Select(p => new PartSize(p, parts[p].Parameters, parts[p].Formats.Values.Sum(), parts[p].Formats))];
    }

    /// <summary>
    /// Errors of the routed experts in <paramref name="format"/>, layer by layer as they are ready. Of a low-bit checkpoint against its dequantized values.
    /// </summary>
    /// <param name="expertsPerLayer">How many experts of each layer are measured, spread evenly; all of 671 billion parameters would take long.</param>
    public static IEnumerable<LayerError> Errors(Checkpoint checkpoint, StorageFormat format, int expertsPerLayer = 4)
    {
        ArgumentNullException.ThrowIfNull(checkpoint);
        if (!format.IsLowBit) throw new ArgumentException($"{format.Name} is not a low-bit format: there is no error to measure");
        string[] projections = [.. ExpertNames.Each("").All.Select(p => p.Name)];
        var experts = checkpoint.Names.Select(Parse).OfType<(int Layer, int Expert, string Projection, string Name)>().Distinct()
            .GroupBy(e => (e.Layer, e.Projection)).OrderBy(g => g.Key.Layer).ThenBy(g => Array.IndexOf(projections, g.Key.Projection));
        foreach (var group in experts)
        {
            var all = group.OrderBy(e => e.Expert).ToList();
            var chosen = Enumerable.Range(0, Math.Min(expertsPerLayer, all.Count))
                .Select(i => all[(int)((long)i * all.Count / Math.Min(expertsPerLayer, all.Count))].Name);
            yield return Measure(checkpoint, format, group.Key.Layer, group.Key.Projection, [.. chosen]);
        }
    }

    private static readonly string[] Order = ["embedding", "norms", "attention", "dense mlp", "router", "shared experts", "routed experts", "head", "other"];

    private static string PartOf(string name) => name switch
    {
        _ when name.StartsWith("model.embed_tokens", StringComparison.Ordinal) => "embedding",
        _ when name.StartsWith("lm_head", StringComparison.Ordinal) => "head",
        _ when name.Contains("norm.", StringComparison.Ordinal) => "norms",
        _ when name.Contains(".experts.", StringComparison.Ordinal) => "routed experts",
        _ when name.Contains(".shared_expert", StringComparison.Ordinal) => "shared experts",
        _ when name.Contains(".self_attn.", StringComparison.Ordinal) => "attention",
        _ when name.Contains(".mlp.gate.", StringComparison.Ordinal) => "router",
        _ when name.Contains(".mlp.", StringComparison.Ordinal) => "dense mlp",
        _ => "other",
    };

    /// <summary>`model.layers.3.mlp.experts.7.up_proj.weight`, or the same with _packed; null for all else.</summary>
    private static (int Layer, int Expert, string Projection, string Name)? Parse(string name)
    {
        var weight = StoredMatrices.MatrixOf(name);
        var words = weight.Split('.');
        var at = Array.IndexOf(words, "experts");
        return at > 0 && words.Length == at + 4 && words[^1] == "weight" && Array.IndexOf(words, "layers") is >= 0 and var layers
            && int.TryParse(words[layers + 1], out var layer) && int.TryParse(words[at + 1], out var expert) ? (layer, expert, words[at + 2], weight) : null;
    }

    private static LayerError Measure(Checkpoint checkpoint, StorageFormat format, int layer, string projection, string[] names)
    {
        var counts = new long[ErrorEdges.Count + 1];
        double error = 0, size = 0, worst = 0;
        foreach (var name in names)
        {
            var (n, k) = checkpoint.ShapeOf(name);
            using var exact = checkpoint.Take(name, DType.F32, n, k);
            var (data, scales) = format.Quantize(exact);
            using (data)
            using (scales)
            using (var coded = format.Dequantize(data, scales, n, k, DType.F32))
            {
                var (height, width) = format.ScaledBlock(k);
                for (long row = 0; row < n; row += height)
                    for (var column = 0; column < k; column += width)
                    {
                        double e = 0, w = 0;
                        for (var i = row; i < Math.Min(row + height, n); i++)
                        {
                            var a = exact.Row<float>(i);
                            var b = coded.Row<float>(i);
                            for (var j = column; j < Math.Min(column + width, k); j++)
                            {
                                e += (double)(b[j] - a[j]) * (b[j] - a[j]);
                                w += (double)a[j] * a[j];
                            }
                        }
                        (error, size) = (error + e, size + w);
                        var relative = w == 0 ? 0 : Math.Sqrt(e / w);
                        worst = Math.Max(worst, relative);
                        counts[Math.Min((int)(relative / ErrorEdges[0]), counts.Length - 1)]++;
                    }
            }
        }
        return new LayerError(layer, projection, names.Length, size == 0 ? 0 : Math.Sqrt(error / size), worst, counts);
    }
}
