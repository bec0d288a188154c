using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

public class LossCurveTests
{
    [Fact]
    public void Smoothing_equals_llama_factory() => // values of its own function
        Assert.Equal([4, 3.089701, 2.097747, 1.098469], LossCurve.Smooth([4, 3, 2, 1]).Select(v => Math.Round(v, 6)));

    [Theory]
    [InlineData(10, 0.220427)]
    [InlineData(50, 0.763455)]
    [InlineData(100, 0.887953)]
    [InlineData(100_000, 0.9)]
    public void Weight_equals_llama_factory(int points, double expected) => Assert.Equal(expected, LossCurve.Weight(points), 6);

    [Fact]
    public void Nothing_stays_nothing_and_a_nan_does_not_spread()
    {
        Assert.Empty(LossCurve.Smooth([]));
        var smoothed = LossCurve.Smooth([double.NaN, 2, double.NaN, double.PositiveInfinity, 2]);
        Assert.True(double.IsNaN(smoothed[0]));
        Assert.Equal([2, 2, 2, 2], smoothed[1..]);
    }

    [Fact]
    public void The_output_folder_gets_llama_factorys_pictures()
    {
        var folder = Directory.CreateTempSubdirectory("kt-loss").FullName;
        try
        {
            File.WriteAllText(Path.Combine(folder, "trainer_state.json"), """
                { "log_history": [ { "step": 1, "loss": 2.5, "learning_rate": 0.1 }, { "step": 2, "loss": 2.0,
                "rewards/accuracies": 0.5, "eval_rewards/accuracies": 0.5 }, { "step": 2, "eval_law/a_loss": 1.9,
                "eval_loss": 1.8 },
                                   { "step": 2, "train_runtime": 1.5 } ] }
                """);
            var written = TrainingLossPlot.SaveFromTrainerState(folder);
            Assert.Equal(["training_loss.png", "training_eval_loss.png", "training_rewards_accuracies.png", "training_eval_law_a_loss.png"],
                written.Select(Path.GetFileName));
            Assert.All(written, path => PngReader.Read(File.ReadAllBytes(path)));
            var chart = TrainingLossPlot.Chart([new Dictionary<string, double> { ["step"] = 5, ["loss"] = 1 }], "loss", "out/x")!;
            Assert.Equal("training loss of out/x", chart.Title);
            Assert.Contains("original", chart.ToSvg());
            Assert.Contains("smoothed", chart.ToSvg());
            Assert.Null(TrainingLossPlot.Chart([new Dictionary<string, double> { ["step"] = 5 }], "loss", "x"));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void A_folder_without_state_says_what_to_do() =>
        Assert.Contains("train into this folder first", Assert.Throws<FileNotFoundException>(() => TrainingLossPlot.SaveFromTrainerState("/nowhere")).Message);
}
