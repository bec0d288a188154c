using KtNotebooks.Optim;

namespace KtNotebooks.Training;

/// <summary>How the loss of an accumulation window is normalised: over all its target tokens, or as the mean of its micro-batches' means (classic KTransformers, use_kt).</summary>
public enum LossReduction
{
    Token,
    Micro,
}

/// <summary>What the trainer needs to know; names and defaults are LLaMA-Factory's and Hugging Face's.</summary>
public sealed record TrainSettings
{
    /// <summary>Where logs and checkpoints go.</summary>
    public required string OutputDir { get; init; }

    public double LearningRate { get; init; } = 5e-5;

    public string Schedule { get; init; } = "linear";

    public double WarmupRatio { get; init; }

    /// <summary>Wins over the ratio when positive.</summary>
    public int WarmupSteps { get; init; }

    public double MaxGradientNorm { get; init; } = 1;

    public AdamWSettings Adam { get; init; } = new();

    public int LoggingSteps { get; init; } = 500;

    /// <summary>0: only at the end.</summary>
    public int SaveSteps { get; init; } = 500;

    /// <summary>0: never.</summary>
    public int EvalSteps { get; init; }

    public ulong Seed { get; init; } = 42;

    /// <summary>chunk_size: rows a layer works on at a time.</summary>
    public int ChunkRows { get; init; } = 8192;

    /// <summary>Where the keys want what training adds to the model.</summary>
    public TrainingMemoryKeys Memory { get; init; } = new();

    /// <summary>Start over although output_dir holds checkpoints, which are removed.</summary>
    public bool Overwrite { get; init; }

    /// <summary>plot_loss: leave training_loss.png beside the logs. On unless switched off, unlike LLaMA-Factory's default.</summary>
    public bool PlotLoss { get; init; } = true;

    public int WarmupOf(int totalSteps) => WarmupSteps > 0 ? WarmupSteps : (int)Math.Ceiling(totalSteps * WarmupRatio);
}
