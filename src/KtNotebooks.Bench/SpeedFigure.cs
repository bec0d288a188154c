namespace KtNotebooks.Bench;

/// <summary>Speed and memory of fine-tuning with another program, for a table beside ours.</summary>
/// <param name="Model">deepseek-v2-lite or deepseek-v3.</param>
/// <param name="Run">Program and setting.</param>
/// <param name="TokensPerSecond">NaN: it cannot run.</param>
/// <param name="GpuGb">Of all cards together.</param>
/// <param name="Machine">Where.</param>
public sealed record SpeedFigure(string Model, string Run, double TokensPerSecond, double GpuGb, string Machine)
{
    private const string Theirs = "2 × RTX 4090 48 GB, Xeon 8488C", Ours = "one H200";

    /// <summary>
    /// What KTransformers published (user guide and technical notes of version 0.4.1): LoRA of rank 8 in BF16, 512 tokens × 16 accumulated. Two cards of
    /// another kind than ours and other processors: no comparison of programs. Its notes also say 36 s a step of 8,192 tokens for DeepSeek-V2-Lite, which
    /// is 228 tokens/s and does not agree with 530.
    /// </summary>
    public static IReadOnlyList<SpeedFigure> PublishedByKTransformers { get; } =
    [
        new("deepseek-v2-lite", "Hugging Face", 303.58, 32.12, Theirs),
        new("deepseek-v2-lite", "Unsloth", 455.37, 9.64, Theirs),
        new("deepseek-v2-lite", "KTransformers", 530.38, 6.08, Theirs),
        new("deepseek-v3", "KTransformers", 40.35, 70, Theirs),
    ];

    /// <summary>
    /// Measured on an H200 like the one of our results, DeepSeek-V2-Lite's shape, with transformers 5.17 and PEFT 0.21; 1 × 16: sequences one at a time, 16
    /// accumulated. tests/gpu/huggingface.py; its output is docs/results/h200/2026-11-27/huggingface.txt.
    /// </summary>
    public static IReadOnlyList<SpeedFigure> HuggingFaceOnTheSameGpu { get; } =
    [
        new("deepseek-v2-lite", "HF, 1 × 16", 2148, 69.4, Ours),
        new("deepseek-v2-lite", "HF, batch 16", 13540, 122.1, Ours),
        new("deepseek-v2-lite", "HF, batch 16, checkpointing", 9581, 49.0, Ours),
        new("deepseek-v2-lite", "HF, FSDP off-load, batch 16", 3607, 19.2, Ours),
        new("deepseek-v2-lite", "HF, FSDP off-load, 1 × 16", 328, 6.3, Ours),
    ];
}
