namespace KtNotebooks.Lora;

/// <summary>What an adapter is made of; names and defaults are LLaMA-Factory's.</summary>
/// <param name="Rank">lora_rank, r.</param>
/// <param name="Alpha">lora_alpha; null or 0: 2 × rank. The update is scaled by alpha / rank.</param>
/// <param name="Dropout">lora_dropout, on the input of A.</param>
/// <param name="Target">lora_target: `all` (every linear but the head and the router), or last name components such as q_proj.</param>
/// <param name="Experts">lora_experts: every routed expert as well.</param>
public sealed record LoraSettings(int Rank = 8, double? Alpha = null, double Dropout = 0, IReadOnlyList<string>? Target = null, bool Experts = false)
{
    public double EffectiveAlpha => Alpha is > 0 ? Alpha.Value : 2.0 * Rank;

    public float Scale => (float)(EffectiveAlpha / Rank);

    /// <exception cref="ArgumentException">A value out of range, with its key.</exception>
    public LoraSettings Checked()
    {
        if (Rank < 1) throw new ArgumentException($"lora_rank must be at least 1, but is {Rank}");
        if (Dropout is < 0 or >= 1) throw new ArgumentException($"lora_dropout must be in [0, 1), but is {Dropout}");
        return this;
    }
}
