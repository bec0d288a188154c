using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>moe_aux_loss_coef and log_routing: transformers' load_balancing_loss_func by hand, and the slope that a step gives it.</summary>
[Collection("cpu variant")]
public class RoutingTests
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public void The_balance_loss_is_that_of_transformers_over_all_layers_together()
    {
        var random = new Random(3);
        const int T = 6, E = 4, K = 2;
        var step = new RoutingStep(0.5, T, zCoefficient: 1);
        var (chosen, mean, squares) = (new double[E], new double[E], 0.0);
        foreach (var layer in new[] { "a", "b" })
            foreach (var (from, rows) in new[] { (0, 4), (4, 2) }) // in two chunks
            {
                float[] z = [.. Enumerable.Range(0, rows * E).Select(_ => (float)random.NextDouble() * 3)];
                int[] picks = [.. Enumerable.Range(0, rows).SelectMany(r => Enumerable.Range(0, E).OrderByDescending(e => z[(r * E) + e]).Take(K))];
                using var logits = Tensor.From(z, rows, E);
                using var indices = Tensor.From(picks, rows, K);
                step.Observe(layer, logits, indices, from, RouterScoring.Softmax);
                foreach (var e in picks) chosen[e] += 1.0 / (2 * T);
                for (var r = 0; r < rows; r++)
                {
                    var sum = Enumerable.Range(0, E).Sum(e => Math.Exp(z[(r * E) + e]));
                    squares += Math.Pow(Math.Log(sum), 2) / (2 * T);
                    for (var e = 0; e < E; e++) mean[e] += Math.Exp(z[(r * E) + e]) / sum / (2 * T);
                }
            }
        Assert.Equal(E * chosen.Zip(mean).Sum(p => p.First * p.Second), step.Metrics["moe/aux_loss"], 1e-9);
        Assert.Equal(squares, step.Metrics["moe/z_loss"], 1e-6);
    }

    [Fact]
    public void Load_counts_what_no_token_chose()
    {
        var step = new RoutingStep(0, 2);
        using var logits = Tensor.From(new float[8], 2, 4);
        using var indices = Tensor.From([0, 1, 0, 1], 2, 2);
        step.Observe("a", logits, indices, 0, RouterScoring.Softmax);
        Assert.Equal(0.5, step.Metrics["moe/dead_experts"]);
        Assert.Equal(2, step.Metrics["moe/imbalance"]);
        Assert.False(step.Metrics.ContainsKey("moe/aux_loss"));
    }

    /// <summary>Along the difference of the gradients with and without it, the loss that is reported has the slope of that difference's length.</summary>
    [Theory]
    [InlineData(3, 0, false, RouterScoring.Softmax, "moe/aux_loss")]
    [InlineData(0, 0.5, false, RouterScoring.Softmax, "moe/z_loss")]
    [InlineData(3, 0, true, RouterScoring.Softmax, "moe/aux_loss")]
    [InlineData(3, 0, true, RouterScoring.Sigmoid, "moe/aux_loss")]
    public void A_step_adds_the_gradient_of_the_routers_losses(double balance, double z, bool sequences, RouterScoring scoring, string metric)
    {
        using var model = Tiny.WithAdapter();
        foreach (var moe in model.All().OfType<MoeMlp>()) moe.Settings = moe.Settings with { Scoring = scoring };
        var batch = Tiny.Batch(5, 9, 4, 7);
        new LayerMajorStep(model).Learn(batch, cancel: Stop);
        var without = Tiny.TakeGradients(model);
        var step = new LayerMajorStep(model, chunkRows: 8) { Balance = balance, RouterZ = z, BalancesSequences = sequences };
        var learned = step.Learn(batch, cancel: Stop);
        var with = Tiny.TakeGradients(model);
        Assert.Equal(new LayerMajorStep(model).Loss(batch, Stop), learned.Loss, 1e-4); // it is no part of the loss that is reported
        var slope = with.ToDictionary(g => g.Key, g => g.Value.Zip(without[g.Key]).Select(v => v.First - v.Second).ToArray());
        var length = Math.Sqrt(slope.Values.Sum(g => g.Sum(v => (double)v * v)));
        Assert.True(length > 1e-3, $"{length}");
        double At(double way)
        {
            DpoTests.Move(model, slope, way / length);
            var aux = new LayerMajorStep(model) { Balance = balance, RouterZ = z, BalancesSequences = sequences }.Learn(batch, cancel: Stop).Metrics[metric];
            Tiny.DropGradients(model);
            DpoTests.Move(model, slope, -way / length);
            return (balance + z) * aux;
        }
        DpoTests.Near(length, (At(1e-3) - At(-1e-3)) / 2e-3, 0.03);
    }

    /// <summary>
    /// DeepSeek-V2 2.1.2 with seq_aux, DeepSeek-V3 eq. 17 to 20: in each layer and sequence f_e P_e by itself, then the mean over the sequences.
    /// </summary>
    [Theory]
    [InlineData(RouterScoring.Softmax)]
    [InlineData(RouterScoring.Sigmoid)]
    public void The_sequence_wise_loss_is_DeepSeek_s(RouterScoring scoring)
    {
        const int E = 4, K = 2;
        int[] starts = [0, 4, 9];
        var random = new Random(5);
        var step = new RoutingStep(0.5, 9) { SeqStarts = starts };
        var expected = 0.0;
        foreach (var layer in new[] { "a", "b" })
        {
            float[] z = [.. Enumerable.Range(0, 9 * E).Select(_ => (float)((random.NextDouble() * 4) - 2))];
            int[] picks = [.. Enumerable.Range(0, 9).SelectMany(r => Enumerable.Range(0, E).OrderByDescending(e => z[(r * E) + e]).Take(K))];
            foreach (var (from, to) in new[] { (0, 3), (3, 9) }) // chunks that end within a sequence
            {
                using var logits = Tensor.From([.. z.Skip(from * E).Take((to - from) * E)], to - from, E);
                using var indices = Tensor.From([.. picks.Skip(from * K).Take((to - from) * K)], to - from, K);
                step.Observe(layer, logits, indices, from, scoring);
            }
            for (var s = 0; s < 2; s++)
            {
                double T = starts[s + 1] - starts[s];
                for (var e = 0; e < E; e++)
                {
                    double f = 0, p = 0;
                    for (var t = starts[s]; t < starts[s + 1]; t++)
                    {
                        double Of(int i) => scoring == RouterScoring.Sigmoid ? 1 / (1 + Math.Exp(-z[(t * E) + i])) : Math.Exp(z[(t * E) + i]);
                        p += Of(e) / Enumerable.Range(0, E).Sum(Of) / T;
                        if (picks.AsSpan(t * K, K).Contains(e)) f += E / (K * T);
                    }
                    expected += f * p / 2;
                }
            }
        }
        Assert.Equal(expected, step.Metrics["moe/aux_loss"], 1e-6);
        Assert.Equal(9 * K, step.Loads["a"].Sum());
    }
}
