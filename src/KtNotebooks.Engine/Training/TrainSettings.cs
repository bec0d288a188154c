using KtNotebooks.Optim;

namespace KtNotebooks.Training;

/// <summary>
/// How the loss of an accumulation window is normalised: over all its target tokens, or as the mean of its micro-batches' means (classic KTransformers,
/// use_kt).
/// </summary>
public enum LossReduction
{
    Token,
    Micro,
}

/// <summary>When something is done during a run: the values of save_strategy, eval_strategy and logging_strategy.</summary>
public enum When
{
    No,
    Steps,
    Epoch,
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

    /// <summary>max_grad_norm; 0: gradients are not clipped.</summary>
    public double MaxGradientNorm { get; init; } = 1;

    public AdamWSettings Adam { get; init; } = new();

    /// <summary>optim: adamw, lion, adafactor, muon or sgd.</summary>
    public string Optimizer { get; init; } = "adamw";

    /// <summary>loraplus_lr_ratio (LoRA+, Hayou et al. 2024): B's learning rate is so many times A's; null: the same.</summary>
    public double? LoraPlus { get; init; }

    /// <summary>lr_scheduler_kwargs.</summary>
    public ScheduleSettings ScheduleDetails { get; init; } = new();

    /// <summary>neftune_noise_alpha; 0: none.</summary>
    public double Noise { get; init; }

    /// <summary>moe_aux_loss_coef; 0: none.</summary>
    public double Balance { get; init; }

    /// <summary>moe_aux_loss_form: sequence.</summary>
    public bool BalancesSequences { get; init; }

    /// <summary>report_to: mlflow.</summary>
    public bool ReportsToMlflow { get; init; }

    /// <summary>router_z_loss_coef; 0: none.</summary>
    public double RouterZ { get; init; }

    /// <summary>log_routing: how evenly experts are chosen is a part of the log.</summary>
    public bool LogsRouting { get; init; }

    /// <summary>What the best evaluation is by.</summary>
    public Best Best { get; init; } = new();

    /// <summary>early_stopping_steps: the run ends after so many evaluations without a better one; null: it does not.</summary>
    public int? Patience { get; init; }

    /// <summary>report_to: tensorboard; the folder of its event files. Null: none are written.</summary>
    public string? EventFolder { get; init; }

    public When LoggingStrategy { get; init; } = When.Steps;

    /// <summary>Below 1: a share of all steps, as for save_steps and eval_steps.</summary>
    public double LoggingSteps { get; init; } = 500;

    /// <summary>logging_first_step.</summary>
    public bool LogFirstStep { get; init; }

    public When SaveStrategy { get; init; } = When.Steps;

    /// <summary>0: no checkpoints on the way. A run that is stopped saves one in any case.</summary>
    public double SaveSteps { get; init; } = 500;

    /// <summary>save_total_limit: only the newest so many checkpoints stay, and the best one; null or 0: all.</summary>
    public int? SaveTotalLimit { get; init; }

    /// <summary>save_only_model: checkpoints on the way hold no moments, so that no run goes on from them. That of a run that is stopped is whole.</summary>
    public bool SaveOnlyModel { get; init; }

    /// <summary>eval_strategy; null: every eval_steps where they are given, and at the end. No: never.</summary>
    public When? EvalStrategy { get; init; }

    /// <summary>null or 0: logging_steps where eval_strategy is steps, else only at the end.</summary>
    public double? EvalSteps { get; init; }

    /// <summary>eval_on_start: the held-out rows before the first step.</summary>
    public bool EvalOnStart { get; init; }

    /// <summary>load_best_model_at_end: what is left is the checkpoint that was best by metric_for_best_model.</summary>
    public bool LoadBestAtEnd { get; init; }

    public ulong Seed { get; init; } = 42;

    /// <summary>chunk_size: rows a layer works on at a time.</summary>
    public int ChunkRows { get; init; } = 8192;

    /// <summary>Where the keys want what training adds to the model.</summary>
    public TrainingMemoryKeys Memory { get; init; } = new();

    /// <summary>Start over although output_dir holds a run, whose checkpoints are removed.</summary>
    public bool Overwrite { get; init; }

    /// <summary>resume_from_checkpoint.</summary>
    public ResumeFrom ResumeFrom { get; init; } = ResumeFrom.Auto;

    /// <summary>plot_loss: leave training_loss.png beside the logs. On unless switched off, unlike LLaMA-Factory's default.</summary>
    public bool PlotLoss { get; init; } = true;

    /// <summary>weight_decay on norms and biases too, unlike transformers' trainer.</summary>
    public bool DecaysAll { get; init; }

    internal OptimizerSettings Optimizing => new(Optimizer, Adam,
        LoraPlus is { } ratio ? name => IsOfB(name) ? ratio : 1 : null, DecaysAll ? null : OptimizerSettings.IsDecayed);

    /// <summary>LLaMA-Factory's groups: what has one dimension (magnitudes, norms, biases) goes with B.</summary>
    private static bool IsOfB(string name) => name.EndsWith(".lora_B.weight", StringComparison.Ordinal)
        || name.EndsWith(".lora_B", StringComparison.Ordinal) // of an expert bank, stacked
        || name.EndsWith(".lora_magnitude_vector", StringComparison.Ordinal) || !OptimizerSettings.IsDecayed(name);

    public int WarmupOf(int totalSteps) => WarmupSteps > 0 ? WarmupSteps : (int)Math.Ceiling(totalSteps * WarmupRatio);

    /// <summary>The same settings, when every value has a meaning.</summary>
    /// <exception cref="ArgumentException">A value without one, by its key.</exception>
    public TrainSettings Checked()
    {
        Require(double.IsFinite(LearningRate) && LearningRate > 0, "learning_rate", "a number above 0", LearningRate);
        if (!Optim.LearningRate.Known.Contains(Schedule))
            throw new ArgumentException($"lr_scheduler_type '{Schedule}' is not known; known are {string.Join(", ", Optim.LearningRate.Known)}");
        Require(WarmupRatio is >= 0 and <= 1, "warmup_ratio", "in [0, 1]", WarmupRatio);
        Require(WarmupSteps >= 0, "warmup_steps", "0 or more", WarmupSteps);
        Require(double.IsFinite(MaxGradientNorm) && MaxGradientNorm >= 0, "max_grad_norm", "0 (no clipping) or more", MaxGradientNorm);
        Require(Adam.Beta1 is >= 0 and < 1, "adam_beta1", "in [0, 1)", Adam.Beta1);
        Require(Adam.Beta2 is >= 0 and < 1, "adam_beta2", "in [0, 1)", Adam.Beta2);
        Require(double.IsFinite(Adam.Eps) && Adam.Eps > 0, "adam_epsilon", "a number above 0", Adam.Eps);
        Require(double.IsFinite(Adam.WeightDecay) && Adam.WeightDecay >= 0, "weight_decay", "0 or more", Adam.WeightDecay);
        Require(IsRhythm(LoggingSteps) && LoggingSteps > 0, "logging_steps", Rhythm, LoggingSteps);
        Require(IsRhythm(SaveSteps), "save_steps", Rhythm + ", or 0 for none", SaveSteps);
        if (EvalSteps is { } every) Require(IsRhythm(every), "eval_steps", Rhythm, every);
        Require(ChunkRows > 0, "chunk_size", "positive", ChunkRows);
        if (LoraPlus is { } ratio) Require(double.IsFinite(ratio) && ratio > 0, "loraplus_lr_ratio", "above 0", ratio);
        Require(double.IsFinite(Noise) && Noise >= 0, "neftune_noise_alpha", "0 or more", Noise);
        Require(double.IsFinite(Balance) && Balance >= 0, "moe_aux_loss_coef", "0 or more", Balance);
        Require(double.IsFinite(RouterZ) && RouterZ >= 0, "router_z_loss_coef", "0 or more", RouterZ);
        if (Patience is { } patience)
        {
            Require(patience > 0, "early_stopping_steps", "above 0", patience);
            if (Evaluations.Strategy == When.No)
                throw new ArgumentException("early_stopping_steps counts evaluations on the way: set eval_strategy: steps or epoch, or eval_steps");
        }
        if (LoadBestAtEnd) RequireBest();
        return this;
    }

    private const string Rhythm = "a whole number of steps, or a share of all steps below 1";

    private static bool IsRhythm(double steps) => steps is >= 0 and <= int.MaxValue && (steps < 1 || steps == Math.Floor(steps));

    /// <summary>What can be chosen from is saved and measured at the same step.</summary>
    private void RequireBest()
    {
        const string Key = "load_best_model_at_end";
        if (SaveStrategy == When.No || (SaveStrategy == When.Steps && SaveSteps == 0))
            throw new ArgumentException($"{Key} needs checkpoints to choose from: set save_steps, or save_strategy: epoch");
        var (evaluation, steps) = Evaluations;
        if (evaluation != SaveStrategy)
            throw new ArgumentException($"{Key} needs the same eval_strategy as save_strategy, but they are {Name(evaluation)} and {Name(SaveStrategy)}");
        if (evaluation != When.Steps) return;
        var ratio = SaveSteps / steps;
        if ((SaveSteps < 1) != (steps < 1) || Math.Abs(ratio - Math.Round(ratio)) > 1e-6 || ratio < 0.5)
            throw new ArgumentException($"{Key} needs save_steps to be a multiple of eval_steps, but they are {SaveSteps} and {steps}");
    }

    /// <summary>When the held-out rows are measured on the way, and every how many steps.</summary>
    internal (When Strategy, double Steps) Evaluations => EvalStrategy switch
    {
        null => EvalSteps is > 0 and var steps ? (When.Steps, steps) : (When.No, 0),
        When.Steps => (When.Steps, EvalSteps is > 0 and var steps ? steps : LoggingSteps),
        { } other => (other, 0),
    };

    private static string Name(When when) => when.ToString().ToLowerInvariant();

    private static void Require<T>(bool holds, string key, string wanted, T value) where T : IFormattable
    {
        if (!holds) throw new ArgumentException(FormattableString.Invariant($"{key} must be {wanted}, but is {value}"));
    }
}
