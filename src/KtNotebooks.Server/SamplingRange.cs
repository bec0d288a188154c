namespace KtNotebooks.Server;

/// <summary>From where to where a value may be asked for, whoever asks: a request over HTTP, or .NET's own ChatOptions.</summary>
/// <param name="Least">Itself allowed, but where <paramref name="Open"/>.</param>
/// <param name="Most">Itself allowed.</param>
/// <param name="Open">The least is not allowed.</param>
internal sealed record SamplingRange(double Least, double Most, bool Open = false)
{
    public static SamplingRange Temperature { get; } = new(0, 2);

    public static SamplingRange TopP { get; } = new(0, 1, Open: true);

    /// <summary>−1: all, as vLLM has it.</summary>
    public static SamplingRange TopK { get; } = new(-1, int.MaxValue);

    public static SamplingRange MinP { get; } = new(0, 1);

    /// <summary>Of presence and of frequency.</summary>
    public static SamplingRange Penalty { get; } = new(-2, 2);

    public static SamplingRange RepetitionPenalty { get; } = new(0.01, 100);

    public static SamplingRange MaxTokens { get; } = new(1, int.MaxValue);

    public bool Has(double value) => value >= Least && value <= Most && !(Open && value == Least);

    /// <summary>Behind "must be": what is allowed.</summary>
    public string Words => Open ? $"above {Least} and at most {Most}" : $"from {Least} to {Most}";
}
