using System.Collections.Concurrent;

using KtNotebooks.Files;

namespace KtNotebooks.Lora;

/// <summary>What an adapter is made of; names and defaults are LLaMA-Factory's and PEFT's.</summary>
/// <param name="Rank">lora_rank, r.</param>
/// <param name="Alpha">lora_alpha; null: 2 × rank. The update is scaled by alpha / rank.</param>
/// <param name="Dropout">lora_dropout, on the input of A.</param>
/// <param name="Target">lora_target: `all` (every linear but the head and the router), or last name components such as q_proj.</param>
/// <param name="Experts">lora_experts: every routed expert as well.</param>
/// <param name="RankPattern">rank_pattern: other ranks for modules whose path, or its end after a dot, matches; the first match wins.</param>
/// <param name="AlphaPattern">alpha_pattern: the same for alphas.</param>
/// <param name="RankStabilised">use_rslora: the scale is alpha / √rank (Kalajdzievski 2023).</param>
/// <param name="Dora">use_dora: magnitudes of rows beside the pairs of linear layers.</param>
/// <param name="Additional">additional_target: modules that are trained whole beside the pairs; null: none.</param>
/// <param name="Pissa">pissa_init with pissa_iter rounds, −1: until nothing changes; null: A random and B zero.</param>
public sealed record LoraSettings(int Rank = 8, double? Alpha = null, double Dropout = 0, IReadOnlyList<string>? Target = null, bool Experts = false,
    IReadOnlyDictionary<string, int>? RankPattern = null, IReadOnlyDictionary<string, double>? AlphaPattern = null, bool RankStabilised = false,
    bool Dora = false, int? Pissa = null, IReadOnlyList<string>? Additional = null)
{
    /// <summary>The largest lora_alpha taken; those in use end below a thousand.</summary>
    private const double LargestAlpha = 1e6;

    /// <summary>The most patterns taken: each is asked for each module.</summary>
    private const int MostPatterns = 1024;

    private static readonly ConcurrentDictionary<string, UserPattern> Expressions = new();

    public double EffectiveAlpha => Alpha ?? 2.0 * Rank;

    /// <summary>The named targets; null: all.</summary>
    internal IReadOnlyList<string>? Targets => Target is { } named && !named.Contains("all") ? named : null;

    /// <summary>Of modules that no pattern names.</summary>
    public float Scale => ScaleOf(EffectiveAlpha, Rank);

    /// <summary>r of a module.</summary>
    public int RankOf(string path) => Match(RankPattern, path, Rank);

    /// <summary>What the product B·A of a module is multiplied with.</summary>
    public float ScaleOf(string path) => ScaleOf(Match(AlphaPattern, path, EffectiveAlpha), RankOf(path));

    /// <summary>The first pattern that no module's path matches; null: all match one.</summary>
    internal string? FirstUnused(IReadOnlyList<string> paths) =>
        (RankPattern?.Keys ?? []).Concat(AlphaPattern?.Keys ?? []).FirstOrDefault(key => !paths.Any(Of(key).IsMatch));

    /// <summary>
    /// What the adapter of a run is written with. A pair that began as the base's principal part goes with its beginning in one of twice the rank, [A; A₀] and
    /// [B, −B₀], of the same scale: an adapter of the base as it is (PEFT's path_initial_model_for_weight_conversion does the same).
    /// </summary>
    internal LoraSettings Written => Pissa is null ? this : this with
    {
        Rank = 2 * Rank,
        Alpha = EffectiveAlpha * Growth,
        RankPattern = RankPattern?.ToDictionary(p => p.Key, p => 2 * p.Value),
        AlphaPattern = AlphaPattern?.ToDictionary(p => p.Key, p => p.Value * Growth),
        Pissa = null,
    };

    private double Growth => RankStabilised ? Math.Sqrt(2) : 2;

    /// <exception cref="ArgumentException">A value out of range, with its key.</exception>
    public LoraSettings Checked()
    {
        if (Rank < 1) throw new ArgumentException($"lora_rank must be at least 1, but is {Rank}");
        if (Dora && Experts) throw new ArgumentException("use_dora is for dense layers: give lora_experts: false, or leave use_dora out");
        if (Pissa is not null && Experts)
            throw new ArgumentException("pissa_init is for dense layers: give lora_experts: false, or leave pissa_init out");
        if (Pissa is not null && Dora) throw new ArgumentException("pissa_init and use_dora begin with different pairs; give one of them");
        if (Pissa is 0 or < -1) throw new ArgumentException($"pissa_iter must be above 0, or -1 for an exact decomposition, but is {Pissa}");
        if (!(Dropout >= 0 && Dropout < 1)) throw new ArgumentException($"lora_dropout must be in [0, 1), but is {Dropout}");
        if (Alpha is { } alpha && !IsAlpha(alpha))
            throw new ArgumentException($"lora_alpha must lie between {-LargestAlpha:N0} and {LargestAlpha:N0}, but is {alpha}");
        if ((RankPattern?.Count ?? 0) + (AlphaPattern?.Count ?? 0) is > MostPatterns and var count)
            throw new ArgumentException($"rank_pattern and alpha_pattern may have {MostPatterns:N0} patterns together, but have {count:N0}");
        foreach (var (key, rank) in RankPattern ?? new Dictionary<string, int>())
            if (rank < 1) throw new ArgumentException($"rank_pattern gives '{key}' the rank {rank}; it must be at least 1");
        foreach (var (key, given) in AlphaPattern ?? new Dictionary<string, double>())
            if (!IsAlpha(given))
                throw new ArgumentException($"alpha_pattern gives '{key}' the alpha {given}; it must lie between {-LargestAlpha:N0} and {LargestAlpha:N0}");
        foreach (var key in (RankPattern?.Keys ?? []).Concat(AlphaPattern?.Keys ?? []))
        {
            try
            {
                _ = Of(key);
            }
            catch (InvalidDataException error)
            {
                throw new ArgumentException(error.Message);
            }
        }
        return this;
    }

    private static bool IsAlpha(double alpha) => Math.Abs(alpha) <= LargestAlpha; // false for NaN

    private float ScaleOf(double alpha, int rank) => (float)(alpha / (RankStabilised ? Math.Sqrt(rank) : rank));

    private static T Match<T>(IReadOnlyDictionary<string, T>? pattern, string path, T otherwise)
    {
        if (pattern is null) return otherwise;
        foreach (var (key, value) in pattern)
            if (Of(key).IsMatch(path)) return value;
        return otherwise;
    }

    private static UserPattern Of(string key) => Expressions.GetOrAdd(key, k => UserPattern.OfModule(k, $"pattern '{(k.Length <= 80 ? k : k[..79] + "…")}'"));
}
