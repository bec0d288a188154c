using KtNotebooks.Nn;

namespace KtNotebooks.Optim;

/// <summary>
/// Gradient descent without momentum, as transformers' `optim: sgd` calls torch: w = w − lr · (g + decay · w). It remembers nothing, so that a checkpoint holds
/// no state of it. Rates that suit it are far above AdamW's.
/// </summary>
public sealed class Sgd(IReadOnlyList<Parameter> parameters, AdamWSettings settings, Func<string, double>? rateOf = null,
    Func<string, bool>? decays = null)
    : HostOptimizer(parameters, settings, rateOf, decays)
{
    protected override IEnumerable<(string Name, long[] Shape)> Memories(Parameter parameter) => [];

    protected override void Update(Parameter parameter, float[] w, float[] g, Tensor[] memories, double rate, double decay)
    {
        var (lr, kept) = ((float)rate, (float)(1 - (rate * decay)));
        for (var i = 0; i < w.Length; i++) w[i] = (w[i] * kept) - (lr * g[i]);
    }
}
