namespace KtNotebooks.Training.Objectives;

/// <summary>Of a pair: s = log p of the chosen and the rejected answer by the policy, r by the reference; sums over their tokens, or means.</summary>
internal readonly record struct PairScores(double Chosen, double Rejected, double ReferenceChosen, double ReferenceRejected)
{
    /// <summary>(s_c − r_c) − (s_r − r_r).</summary>
    public double Margin => Chosen - ReferenceChosen - (Rejected - ReferenceRejected);
}

/// <summary>The loss of a pair and its slopes ∂L/∂s_c and ∂L/∂s_r.</summary>
internal readonly record struct PairSlopes(double Loss, double Chosen, double Rejected);

/// <summary>A value of pref_loss.</summary>
/// <param name="Name">The value.</param>
/// <param name="OfMeans">s and r are means over an answer's tokens, not sums.</param>
/// <param name="HasReference">False: r is not looked at.</param>
/// <param name="OfWindow">A pair's loss depends on the other pairs of the window.</param>
/// <param name="Of">The losses of pairs.</param>
internal sealed record PairLoss(string Name, bool OfMeans, bool HasReference, bool OfWindow, Func<PairScores[], PairSlopes[]> Of);

/// <summary>
/// The losses of pairs, each with its paper. m = (s_c − r_c) − (s_r − r_r), σ the logistic function. Which of them take means follows LLaMA-Factory.
/// </summary>
internal static class PairLosses
{
    /// <param name="name">pref_loss.</param>
    /// <param name="beta">β, pref_beta.</param>
    /// <param name="smoothing">ε, dpo_label_smoothing.</param>
    /// <param name="gamma">γ, simpo_gamma.</param>
    public static PairLoss Get(string name, double beta, double smoothing, double gamma) => name switch
    {
        "sigmoid" => OfPairs(name, pair => Sigmoid(pair, beta, smoothing)),
        "hinge" => OfPairs(name, pair => Hinge(pair, beta)),
        "ipo" => OfPairs(name, pair => Ipo(pair, beta), ofMeans: true),
        "kto_pair" => new PairLoss(name, OfMeans: false, HasReference: true, OfWindow: true, pairs => KtoPair(pairs, beta)),
        "orpo" => OfPairs(name, pair => Orpo(pair, beta), ofMeans: true, hasReference: false),
        "simpo" => OfPairs(name, pair => SimPo(pair, beta, gamma), ofMeans: true, hasReference: false),
        _ => throw new ArgumentException($"pref_loss '{name}' is not known"),
    };

    private static PairLoss OfPairs(string name, Func<PairScores, PairSlopes> one, bool ofMeans = false, bool hasReference = true) =>
        new(name, ofMeans, hasReference, OfWindow: false, pairs => Array.ConvertAll(pairs, pair => one(pair)));

    /// <summary>
    /// DPO (Rafailov et al. 2023), with the smoothing of Mitchell's conservative DPO: L = −(1 − ε) log σ(βm) − ε log σ(−βm).
    /// ∂L/∂m = β(ε σ(βm) − (1 − ε) σ(−βm)).
    /// </summary>
    private static PairSlopes Sigmoid(PairScores pair, double beta, double smoothing)
    {
        var z = beta * pair.Margin;
        var slope = beta * ((smoothing * Logistic.Of(z)) - ((1 - smoothing) * Logistic.Of(-z)));
        return new PairSlopes(((1 - smoothing) * Logistic.Softplus(-z)) + (smoothing * Logistic.Softplus(z)), slope, -slope);
    }

    /// <summary>The hinge of SLiC-HF (Zhao et al. 2023) on DPO's margin (Liu et al. 2023, RSO): L = max(0, 1 − βm).</summary>
    private static PairSlopes Hinge(PairScores pair, double beta)
    {
        var room = 1 - (beta * pair.Margin);
        return room > 0 ? new PairSlopes(room, -beta, beta) : default;
    }

    /// <summary>IPO (Azar et al. 2023), of means: L = (m − 1/(2β))².</summary>
    private static PairSlopes Ipo(PairScores pair, double beta)
    {
        var off = pair.Margin - (1 / (2 * beta));
        return new PairSlopes(off * off, 2 * off, -2 * off);
    }

    /// <summary>
    /// KTO of pairs (Ethayarajh et al. 2024, eq. 7, as TRL 0.8 has it): L = ½(1 − σ(β(s_c − r_c − KL_r))) + ½(1 − σ(β(KL_c − s_r + r_r))), where KL_c and
    /// KL_r are the means of s − r over the window's chosen and rejected answers, at least 0; no gradient goes through them (section 4.1 of the paper).
    /// </summary>
    private static PairSlopes[] KtoPair(PairScores[] pairs, double beta)
    {
        var chosenKl = Math.Max(0, pairs.Average(p => p.Chosen - p.ReferenceChosen));
        var rejectedKl = Math.Max(0, pairs.Average(p => p.Rejected - p.ReferenceRejected));
        return Array.ConvertAll(pairs, p =>
        {
            var good = Logistic.Of(beta * (p.Chosen - p.ReferenceChosen - rejectedKl));
            var bad = Logistic.Of(beta * (chosenKl - p.Rejected + p.ReferenceRejected));
            return new PairSlopes(1 - ((good + bad) / 2), -beta * good * (1 - good) / 2, beta * bad * (1 - bad) / 2);
        });
    }

    /// <summary>
    /// ORPO (Hong et al. 2024), of means: L = −s_c − β log σ(o), o = log(p_c / (1 − p_c)) − log(p_r / (1 − p_r)), p = exp s. ∂o/∂s_c = 1 / (1 − p_c).
    /// </summary>
    private static PairSlopes Orpo(PairScores pair, double beta)
    {
        var odds = LogOdds(pair.Chosen) - LogOdds(pair.Rejected);
        var slope = -beta * Logistic.Of(-odds);
        return new PairSlopes(-pair.Chosen + (beta * Logistic.Softplus(-odds)), -1 + (slope / NotOf(pair.Chosen)), -slope / NotOf(pair.Rejected));
    }

    /// <summary>SimPO (Meng et al. 2024), of means: L = −log σ(β(s_c − s_r) − γ).</summary>
    private static PairSlopes SimPo(PairScores pair, double beta, double gamma)
    {
        var z = (beta * (pair.Chosen - pair.Rejected)) - gamma;
        var slope = -beta * Logistic.Of(-z);
        return new PairSlopes(Logistic.Softplus(-z), slope, -slope);
    }

    private static double LogOdds(double s) => s - Math.Log(NotOf(s));

    /// <summary>1 − exp s; an answer that is certain has odds that F32 can still hold.</summary>
    private static double NotOf(double s) => Math.Max(1e-7, 1 - Math.Exp(s));
}

/// <summary>σ and its logarithm, safe at any size.</summary>
internal static class Logistic
{
    public static double Of(double x) => 1 / (1 + Math.Exp(-x));

    /// <summary>−log σ(−x).</summary>
    public static double Softplus(double x) => Math.Max(x, 0) + Math.Log(1 + Math.Exp(-Math.Abs(x)));
}
