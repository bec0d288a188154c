using KtNotebooks.Nn;

namespace KtNotebooks.Optim;

/// <summary>
/// Lion (Chen et al. 2023): w = w(1 − lr · decay) − lr · sign(β₁m + (1−β₁)g), then m = β₂m + (1−β₂)g. Its learning rate is a third to a tenth of AdamW's.
/// </summary>
public sealed class Lion(IReadOnlyList<Parameter> parameters, AdamWSettings settings, Func<string, double>? rateOf = null,
    Func<string, bool>? decays = null)
    : HostOptimizer(parameters, settings, rateOf, decays)
{
    protected override IEnumerable<(string Name, long[] Shape)> Memories(Parameter parameter) => [("m", parameter.Tensor.Shape.ToArray())];

    protected override void Update(Parameter parameter, float[] w, float[] g, Tensor[] memories, double rate, double decay)
    {
        var m = memories[0].Span<float>();
        var (b1, b2, lr, kept) = ((float)Settings.Beta1, (float)Settings.Beta2, (float)rate, (float)(1 - (rate * decay)));
        for (var i = 0; i < w.Length; i++)
        {
            w[i] = (w[i] * kept) - (lr * MathF.Sign((b1 * m[i]) + ((1 - b1) * g[i])));
            m[i] = (b2 * m[i]) + ((1 - b2) * g[i]);
        }
    }
}
