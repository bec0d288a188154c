using System.Globalization;

namespace KtNotebooks.Generation;

/// <summary>How the next token is drawn; names and defaults are Hugging Face's and LLaMA-Factory's.</summary>
public sealed record Sampling(int MaxNewTokens = 1024, bool DoSample = true, double Temperature = 0.95, double TopP = 0.7, int TopK = 50,
    double RepetitionPenalty = 1, ulong Seed = 42)
{
    /// <summary>Tokens less likely than this share of the most likely one's probability are left out; 0: off.</summary>
    public double MinP { get; init; }

    /// <summary>Taken from the logit of every token that has been drawn.</summary>
    public double PresencePenalty { get; init; }

    /// <summary>Taken from the logit of a token for every time that it has been drawn.</summary>
    public double FrequencyPenalty { get; init; }

    /// <summary>The most likely token, always.</summary>
    public static Sampling Greedy(int maxNewTokens) => new(maxNewTokens, DoSample: false);

    /// <summary>The same with draws of its own for one of many: what it becomes depends on the seed and on its number alone.</summary>
    public Sampling Of(int number) => this with { Seed = Ops.DropoutMask.Mix(Seed ^ ((ulong)number << 32)) };

    /// <summary>In a few words.</summary>
    public string Describe() => (DoSample && Temperature > 0
        ? string.Create(CultureInfo.InvariantCulture, $"drawn at temperature {Temperature}, top_p {TopP}, top_k {TopK}") : "the most likely token, always")
        + (RepetitionPenalty == 1 ? "" : string.Create(CultureInfo.InvariantCulture, $", repetition_penalty {RepetitionPenalty}"));

    /// <exception cref="ArgumentException">A value out of range, with its key.</exception>
    public Sampling Checked()
    {
        if (MaxNewTokens < 1) throw new ArgumentException($"max_new_tokens must be at least 1, but is {MaxNewTokens}");
        if (Temperature < 0) throw new ArgumentException($"temperature must not be negative, but is {Temperature}");
        if (TopP is <= 0 or > 1) throw new ArgumentException($"top_p must be in (0, 1], but is {TopP}");
        if (TopK < 0) throw new ArgumentException($"top_k must be 0 (off) or positive, but is {TopK}");
        if (RepetitionPenalty <= 0) throw new ArgumentException($"repetition_penalty must be positive, but is {RepetitionPenalty}");
        if (MinP is < 0 or > 1) throw new ArgumentException($"min_p must be in [0, 1], but is {MinP}");
        return this;
    }
}
