using System.Collections.Concurrent;
using System.Text.RegularExpressions;

namespace KtNotebooks.Lora;

/// <summary>What an adapter is made of; names and defaults are LLaMA-Factory's and PEFT's.</summary>
/// <param name="Rank">lora_rank, r.</param>
/// <param name="Alpha">lora_alpha; null or 0: 2 × rank. The update is scaled by alpha / rank.</param>
/// <param name="Dropout">lora_dropout, on the input of A.</param>
/// <param name="Target">lora_target: `all` (every linear but the head and the router), or last name components such as q_proj.</param>
/// <param name="Experts">lora_experts: every routed expert as well.</param>
/// <param name="RankPattern">rank_pattern: other ranks for modules whose path, or its end after a dot, matches; the first match wins.</param>
/// <param name="AlphaPattern">alpha_pattern: the same for alphas.</param>
/// <param name="RankStabilised">use_rslora: the scale is alpha / √rank (Kalajdzievski 2023).</param>
public sealed record LoraSettings(int Rank = 8, double? Alpha = null, double Dropout = 0, IReadOnlyList<string>? Target = null, bool Experts = false,
    IReadOnlyDictionary<string, int>? RankPattern = null, IReadOnlyDictionary<string, double>? AlphaPattern = null, bool RankStabilised = false)
{
    private static readonly ConcurrentDictionary<string, Regex> Expressions = new();

    public double EffectiveAlpha => Alpha is > 0 ? Alpha.Value : 2.0 * Rank;

    /// <summary>The named targets; null: all.</summary>
    internal IReadOnlyList<string>? Targets => Target is { } named && !named.Contains("all") ? named : null;

    /// <summary>Of modules that no pattern names.</summary>
    public float Scale => ScaleOf(EffectiveAlpha, Rank);

    /// <summary>r of a module.</summary>
    public int RankOf(string path) => Match(RankPattern, path, Rank);

    /// <summary>What the product B·A of a module is multiplied with.</summary>
    public float ScaleOf(string path) => ScaleOf(Match(AlphaPattern, path, EffectiveAlpha), RankOf(path));

    /// <exception cref="ArgumentException">A value out of range, with its key.</exception>
    public LoraSettings Checked()
    {
        if (Rank < 1) throw new ArgumentException($"lora_rank must be at least 1, but is {Rank}");
        if (Dropout is < 0 or >= 1) throw new ArgumentException($"lora_dropout must be in [0, 1), but is {Dropout}");
        foreach (var (key, rank) in RankPattern ?? new Dictionary<string, int>())
            if (rank < 1) throw new ArgumentException($"rank_pattern gives '{key}' the rank {rank}; it must be at least 1");
        foreach (var key in (RankPattern?.Keys ?? []).Concat(AlphaPattern?.Keys ?? []))
        {
            try
            {
                _ = Of(key);
            }
            catch (RegexParseException error)
            {
                throw new ArgumentException($"pattern '{key}' is no regular expression: {error.Message}");
            }
        }
        return this;
    }

    private float ScaleOf(double alpha, int rank) => (float)(alpha / (RankStabilised ? Math.Sqrt(rank) : rank));

    private static T Match<T>(IReadOnlyDictionary<string, T>? pattern, string path, T otherwise)
    {
        if (pattern is null) return otherwise;
        foreach (var (key, value) in pattern)
            if (Of(key).IsMatch(path)) return value;
        return otherwise;
    }

    /// <summary>PEFT's rule: the whole path, or its end after a dot.</summary>
    private static Regex Of(string key) => Expressions.GetOrAdd(key, k => new Regex($@"^(?:.*\.)?(?:{k})$", RegexOptions.CultureInvariant));
}
