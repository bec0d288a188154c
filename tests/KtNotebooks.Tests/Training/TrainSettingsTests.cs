using KtNotebooks.Optim;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>Values without a meaning are named by their key before anything is loaded.</summary>
public class TrainSettingsTests
{
    private static readonly TrainSettings Good = new() { OutputDir = "out" };

    public static TheoryData<string, TrainSettings> Wrong => new()
    {
        { "learning_rate must be a number above 0, but is -1", Good with { LearningRate = -1 } },
        { "learning_rate must be a number above 0, but is 0", Good with { LearningRate = 0 } },
        { "learning_rate must be a number above 0, but is NaN", Good with { LearningRate = double.NaN } },
        { "lr_scheduler_type 'sine' is not known; known are cosine, linear, constant, constant_with_warmup, cosine_with_restarts, cosine_with_min_lr, "
            + "cosine_warmup_with_min_lr, polynomial, inverse_sqrt, warmup_stable_decay", Good with { Schedule = "sine" } },
        { "warmup_ratio must be in [0, 1], but is 1.5", Good with { WarmupRatio = 1.5 } },
        { "warmup_ratio must be in [0, 1], but is NaN", Good with { WarmupRatio = double.NaN } },
        { "warmup_steps must be 0 or more, but is -3", Good with { WarmupSteps = -3 } },
        { "max_grad_norm must be 0 (no clipping) or more, but is -1", Good with { MaxGradientNorm = -1 } },
        { "adam_beta1 must be in [0, 1), but is 1", Good with { Adam = new AdamWSettings(Beta1: 1) } },
        { "adam_beta2 must be in [0, 1), but is -0.1", Good with { Adam = new AdamWSettings(Beta2: -0.1) } },
        { "adam_epsilon must be a number above 0, but is 0", Good with { Adam = new AdamWSettings(Eps: 0) } },
        { "weight_decay must be 0 or more, but is -0.1", Good with { Adam = new AdamWSettings(WeightDecay: -0.1) } },
        { "logging_steps must be a whole number of steps, or a share of all steps below 1, but is 0", Good with { LoggingSteps = 0 } },
        { "logging_steps must be a whole number of steps, or a share of all steps below 1, but is 1.5", Good with { LoggingSteps = 1.5 } },
        { "save_steps must be a whole number of steps, or a share of all steps below 1, or 0 for none, but is -1", Good with { SaveSteps = -1 } },
        { "eval_steps must be a whole number of steps, or a share of all steps below 1, but is 1E+300", Good with { EvalSteps = 1e300 } },
        { "chunk_size must be positive, but is 0", Good with { ChunkRows = 0 } },
        { "load_best_model_at_end needs checkpoints to choose from: set save_steps, or save_strategy: epoch",
            Good with { LoadBestAtEnd = true, SaveStrategy = When.No } },
        { "load_best_model_at_end needs the same eval_strategy as save_strategy, but they are epoch and steps",
            Good with { LoadBestAtEnd = true, EvalStrategy = When.Epoch } },
        { "load_best_model_at_end needs save_steps to be a multiple of eval_steps, but they are 3 and 2",
            Good with { LoadBestAtEnd = true, SaveSteps = 3, EvalStrategy = When.Steps, EvalSteps = 2 } },
    };

    [Theory]
    [MemberData(nameof(Wrong), DisableDiscoveryEnumeration = true)]
    public void A_value_without_a_meaning_is_named(string message, TrainSettings settings) =>
        Assert.Equal(message, Assert.Throws<ArgumentException>(settings.Checked).Message);

    [Fact]
    public void Values_at_the_border_are_taken()
    {
        Good.Checked();
        (Good with { WarmupRatio = 1, MaxGradientNorm = 0, Adam = new AdamWSettings(0, 0), SaveSteps = 0, EvalSteps = 0, LoggingSteps = 0.5 }).Checked();
        (Good with { LoadBestAtEnd = true, SaveSteps = 0.2, EvalStrategy = When.Steps, EvalSteps = 0.1 }).Checked();
        (Good with { LoadBestAtEnd = true, SaveStrategy = When.Epoch, EvalStrategy = When.Epoch }).Checked();
    }

    [Theory]
    [InlineData(null, "auto")]
    [InlineData("null", "auto")]
    [InlineData("False", "never")]
    [InlineData("true", "newest")]
    [InlineData("saves/run/checkpoint-3", "saves/run/checkpoint-3")]
    public void Resume_from_checkpoint_is_null_false_true_or_a_path(string? value, string expected)
    {
        var from = ResumeFrom.Parse(value);
        Assert.Equal(expected, from.Folder ?? (from == ResumeFrom.Auto ? "auto" : from == ResumeFrom.Never ? "never" : "newest"));
        Assert.Equal(expected is not ("auto" or "never"), from.IsExplicit);
        Assert.Equal(from, ResumeFrom.Parse(value));
    }
}
