using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>YaRN's parameters under their config.json names (rope_scaling or rope_parameters). Peng et al. 2023.</summary>
public sealed record YarnSettings(double Factor, int OriginalMaxPositions, double BetaFast, double BetaSlow, double Mscale, double MscaleAllDim,
    double? AttentionFactor = null, bool Truncate = true)
{
    /// <summary>0.1 · m · ln(factor) + 1, the temperature that DeepSeek also squares into the softmax scale.</summary>
    public double Magnitude(double m) => Factor <= 1 ? 1 : (0.1 * m * Math.Log(Factor)) + 1;
}

/// <summary>
/// Angles of the rotary embedding: pair i of r/2 turns by position · frequency[i], and the rotated pair is multiplied by <see cref="Attenuation"/> (YaRN's
/// mscale / mscale_all_dim, or its attention_factor where the config gives one; 1 without YaRN). cos and sin of all positions seen so far are kept,
/// [positions, r/2] each.
/// </summary>
public sealed class RotaryTable
{
    private readonly double[] _frequencies;
    private readonly Lock _growing = new();
    private float[] _cos = [];
    private float[] _sin = [];
    private readonly Dictionary<Device, Tensor> _onGpus = [];

    public RotaryTable(int dim, double theta, YarnSettings? yarn = null)
    {
        if (dim <= 0 || dim % 2 != 0) throw new ArgumentException($"[RotaryTable] the rotary width must be even and positive, but is {dim}");
        Pairs = dim / 2;
        _frequencies = new double[Pairs];
        for (var i = 0; i < Pairs; i++) _frequencies[i] = Math.Pow(theta, -2.0 * i / dim);
        if (yarn is null) return;
        Attenuation = (float)(yarn.AttentionFactor ?? (yarn.Magnitude(yarn.Mscale) / yarn.Magnitude(yarn.MscaleAllDim)));
        // The pair that turns `beta` times within the original context: dim · ln(L / (2π·beta)) / (2 · ln theta).
        double Pair(double beta) => dim * Math.Log(yarn.OriginalMaxPositions / (beta * 2 * Math.PI)) / (2 * Math.Log(theta));
        var (fast, slow) = (Pair(yarn.BetaFast), Pair(yarn.BetaSlow));
        if (yarn.Truncate) (fast, slow) = (Math.Floor(fast), Math.Ceiling(slow)); // not for gpt-oss
        var low = Math.Max(fast, 0);
        var high = Math.Min(slow, dim - 1);
        if (high == low) high += 0.001;
        for (var i = 0; i < Pairs; i++)
        {
            var interpolate = Math.Clamp((i - low) / (high - low), 0, 1); // 0: keep the fast pair, 1: stretch the slow one
            _frequencies[i] *= (interpolate / yarn.Factor) + (1 - interpolate);
        }
    }

    /// <summary>r/2.</summary>
    public int Pairs { get; }

    public float Attenuation { get; } = 1;

    /// <summary>cos and sin (times the attenuation) for positions 0 … positions − 1, [positions, r/2] each.</summary>
    public (ReadOnlyMemory<float> Cos, ReadOnlyMemory<float> Sin) Upto(int positions)
    {
        lock (_growing)
        {
            // by doubling: generation asks for one more each time
            if (_cos.Length < positions * Pairs) Grow(Math.Max(positions, Math.Max(64, 2 * _cos.Length / Pairs)));
            return (_cos, _sin);
        }
    }

    /// <summary>The same on a card: [positions, r/2, 2], cos and sin side by side. Kept here and sent again only when it grows.</summary>
    internal Tensor On(Device device, int positions)
    {
        lock (_growing)
        {
            var known = _onGpus.GetValueOrDefault(device);
            if (known is not null && known.Dim(0) >= positions) return known;
            var (cos, sin) = Upto(positions);
            var pairs = new float[2 * cos.Length];
            for (var i = 0; i < cos.Length; i++) (pairs[2 * i], pairs[(2 * i) + 1]) = (cos.Span[i], sin.Span[i]);
            using var flat = Memory.Place(pairs, device);
            known?.Dispose(); // what is queued already still finds it: memory is reused in the stream's order
            LastingTensors.Moved();
            return _onGpus[device] = flat.View(cos.Length / Pairs, Pairs, 2);
        }
    }

    private void Grow(int positions)
    {
        var (cos, sin) = (new float[positions * Pairs], new float[positions * Pairs]);
        for (var p = 0; p < positions; p++)
            for (var i = 0; i < Pairs; i++)
            {
                // angles in F32, as the reference implementations compute them
                var angle = p * (float)_frequencies[i];
                cos[(p * Pairs) + i] = MathF.Cos(angle) * Attenuation;
                sin[(p * Pairs) + i] = MathF.Sin(angle) * Attenuation;
            }
        (_cos, _sin) = (cos, sin);
    }
}
