using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Training;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>What ranks take of a window, and that their sums are what one rank computes.</summary>
[Collection("cpu variant")]
public class WindowShareTests
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(7)]
    public void Every_sequence_is_on_one_rank_with_the_numbers_of_the_window(int world)
    {
        foreach (var together in (int[])[1, 2])
        {
            var window = Window(8);
            TokenBatch[] shares = [.. Enumerable.Range(0, world).Select(rank => WindowShare.Of(window, together, rank, world))];
            Assert.Equal(window.Ids, shares.SelectMany(s => s.Ids));
            Assert.Equal(window.Weights, shares.SelectMany(s => s.Weights));
            Assert.Equal(window.Tags, shares.SelectMany(s => s.Tags));
            Assert.All(shares, s => Assert.Equal(0, s.Sequences % together));
            Assert.Equal(Math.Min(world, 8 / together), shares.Count(s => s.Sequences > 0));
            var (row, target) = (0, 0);
            foreach (var share in shares)
            {
                Assert.Equal((row, target), (share.FirstRow, share.FirstTarget));
                (row, target) = (row + share.Tokens, target + share.Targets);
            }
        }
    }

    [Fact]
    public void Shares_have_about_as_many_tokens()
    {
        var builder = new TokenBatch.Builder();
        foreach (var length in (int[])[100, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]) builder.Add(new int[length], [], 0);
        var window = builder.Build();
        Assert.Equal([100, 100], Enumerable.Range(0, 2).Select(rank => WindowShare.Of(window, 1, rank, 2).Tokens));
    }

    /// <summary>Bits: what every rank has after a step is g₀ + g₁ + …, each g of its own rows with the masks that they have in the window.</summary>
    [Theory]
    [InlineData(2, 4)]
    [InlineData(3, 5)]
    [InlineData(4, 2)] // two ranks have no rows
    public void Gradients_are_the_sum_in_the_order_of_the_ranks(int world, int sequences)
    {
        var window = Window(sequences);
        LayerMajorStep Step(CausalLm model) => new(model) { Noise = 5 };
        (WindowLoss Loss, float[] Gradients) Alone(TokenBatch batch)
        {
            using var model = Tiny.WithAdapter(dropout: 0.2);
            if (batch.Sequences == 0) return (new WindowLoss(0), [.. model.AllTrainable.SelectMany(p => new float[p.Tensor.Count])]);
            var loss = Step(model).Learn(batch, dropoutKey: 77, Stop);
            return (loss, Flat(model));
        }
        var shares = Enumerable.Range(0, world).Select(rank => Alone(WindowShare.Of(window, 1, rank, world))).ToArray();
        var sum = shares[0].Gradients;
        foreach (var (_, other) in shares[1..])
            for (var i = 0; i < sum.Length; i++) sum[i] += other[i];
        var ranks = ThreadRanks.Run(world, r =>
        {
            using var model = Tiny.WithAdapter(dropout: 0.2);
            var step = Step(model);
            var loss = step.Learn(step.ShareOf(r, window), 77, Stop);
            return (loss.Loss, Gradients: Flat(model));
        });
        Assert.All(ranks, rank =>
        {
            Assert.Equal(sum, rank.Gradients);
            Assert.Equal(shares.Aggregate(0.0, (all, one) => all + one.Loss.Loss), rank.Loss);
        });
        var (whole, expected) = Alone(window);
        Assert.Equal(whole.Loss, ranks[0].Loss, 1e-6 * Math.Abs(whole.Loss));
        Near(expected, sum);
    }

    public static TheoryData<string> Objectives => ["sft", "dft", "balance", "dpo", "kto_pair", "kto", "rm"];

    /// <summary>Also of objectives that must see the whole window, and of losses of what all routers choose.</summary>
    [Theory]
    [MemberData(nameof(Objectives))]
    public void Losses_metrics_and_gradients_are_those_of_one_rank(string which)
    {
        ITrainingObjective objective = which switch
        {
            "dpo" => new DpoObjective(new PreferenceSettings(Beta: 0.5)),
            "kto_pair" => new DpoObjective(new PreferenceSettings("kto_pair", 0.5)),
            "kto" => new KtoObjective(0.3, 1, 1),
            "rm" => new RewardObjective(),
            _ => new SftObjective(which == "dft"),
        };
        var isPairs = which is "dpo" or "kto_pair" or "kto" or "rm";
        int TagOf(int row) => row % 3 == 0 ? LikingEncoder.Unwanted : LikingEncoder.Wanted;
        EncodedExample[] rows = isPairs ? [.. DpoTests.Pairs().Select((row, i) => row with { Tag = TagOf(i) })] : Rows(6);
        var window = ExampleWindows.Batch(rows, objective);
        (WindowLoss Learned, WindowLoss Measured, float[] Gradients) Work(ICollective ranks)
        {
            using var model = Tiny.WithAdapter(chosen: Tiny.Experts);
            if (which == "rm") model.ValueHead = ValueHead.Fresh(model.Info.Width, model.Norm.Device, 3);
            var step = new LayerMajorStep(model)
            {
                Objective = objective,
                Balance = which == "balance" ? 0.3 : 0,
                RouterZ = which == "balance" ? 0.1 : 0,
                LogsRouting = which is "sft" or "balance",
            };
            var measured = step.Measure(step.ShareOf(ranks, window), Stop);
            var learned = step.Learn(step.ShareOf(ranks, window), 0, Stop);
            return (learned, measured, Flat(model));
        }
        var one = Work(SingleRank.Instance);
        foreach (var world in (int[])[2, 3, 8])
            foreach (var rank in ThreadRanks.Run(world, Work))
            {
                foreach (var (expected, got) in new[] { (one.Learned, rank.Learned), (one.Measured, rank.Measured) })
                {
                    Assert.Equal(expected.Loss, got.Loss, 1e-5 * Math.Max(1, Math.Abs(expected.Loss)));
                    Assert.Equal(expected.Metrics.Keys.Order(), got.Metrics.Keys.Order());
                    Assert.All(expected.Metrics, m => Assert.Equal(m.Value, got.Metrics[m.Key], 1e-4 * Math.Max(1, Math.Abs(m.Value))));
                }
                Near(one.Gradients, rank.Gradients);
            }
    }

    private static TokenBatch Window(int sequences) => ExampleWindows.Batch(Rows(sequences));

    private static EncodedExample[] Rows(int count)
    {
        var random = new Random(5);
        return [.. Enumerable.Range(0, count).Select(_ => Enumerable.Range(0, random.Next(3, 15)).Select(_ => random.Next(60)).ToArray())
            .Select(ids => new EncodedExample(ids, [-100, .. ids[1..]], "x:1"))];
    }

    /// <summary>All gradients end to end; zeros where there is none.</summary>
    private static float[] Flat(CausalLm model) => [.. model.AllTrainable.SelectMany(p => p.Tensor.Grad?.ToFloats() ?? new float[p.Tensor.Count])];

    /// <summary>F32 sums of a few hundred terms in another order.</summary>
    private static void Near(float[] expected, float[] got)
    {
        var scale = expected.Max(Math.Abs);
        Assert.Equal(expected.Length, got.Length);
        for (var i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - got[i]) <= 2e-5 * scale, $"gradient {i} is {got[i]}, one rank has {expected[i]}, the largest {scale}");
    }
}
