using System.Numerics.Tensors;

namespace KtNotebooks.Generation;

/// <summary>Log-probabilities of one place, out of its logits.</summary>
internal static class TokenLogprobs
{
    /// <summary>A token's own, and those of the likeliest tokens.</summary>
    /// <param name="logits">[V], before penalties and temperature; not changed.</param>
    /// <param name="token">One beyond the logits cannot come: −∞.</param>
    /// <param name="likeliest">How many; 0: null comes back.</param>
    public static (float Logprob, IReadOnlyList<TokenLogprob>? Likeliest) Of(ReadOnlySpan<float> logits, int token, int likeliest)
    {
        var sum = LogSum(logits);
        var own = token < logits.Length ? logits[token] - sum : float.NegativeInfinity;
        if (likeliest == 0) return (own, null);
        var order = new LikeliestFirst();
        var top = new TokenLogprob[Math.Min(likeliest, logits.Length)];
        order.Start(logits, top.Length);
        for (var i = 0; i < top.Length; i++) top[i] = new TokenLogprob(order.Id(i), logits[order.Id(i)] - sum);
        return (own, top);
    }

    private static float LogSum(ReadOnlySpan<float> logits)
    {
        var max = TensorPrimitives.Max(logits);
        double sum = 0;
        foreach (var logit in logits) sum += Math.Exp((double)logit - max);
        return (float)(max + Math.Log(sum));
    }
}
