using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>The three ways to route, on numbers that can be checked by hand.</summary>
public class RouterTests
{
    private const float Ln2 = 0.6931472f;

    [Fact]
    public void Softmax_weights_are_probabilities_of_all_experts()
    {
        // e^z = 1, 2, 4, 1: probabilities 1/8, 2/8, 4/8, 1/8.
        var (weights, indices) = Route([0, Ln2, 2 * Ln2, 0], new RouterSettings(3, false, 16));
        Assert.Equal([2, 1, 0], indices); // of the two equals the lower
        Close([8, 4, 2], weights);
    }

    [Fact]
    public void A_group_counts_as_much_as_its_best_expert()
    {
        // Groups {0 1} {2 3} {4 5}: best 1, 4, 3. The second largest of all, expert 2's neighbour 3, is in the best group; expert 1 is out with its group
        // though it beats expert 5.
        var (weights, indices) = Route([0, Ln2, 3 * Ln2, 2 * Ln2, 2.5f * Ln2, -Ln2], new RouterSettings(4, true, 1, Groups: 3, KeptGroups: 2));
        Assert.Equal([2, 4, 3, 5], indices);
        var sum = 8 + MathF.Pow(2, 2.5f) + 4 + 0.5f;
        Close([8 / sum, MathF.Pow(2, 2.5f) / sum, 4 / sum, 0.5f / sum], weights);
    }

    [Fact]
    public void The_bias_changes_the_choice_and_no_weight()
    {
        // Sigmoids of 0, ln 3, -ln 3: 1/2, 3/4, 1/4.
        var settings = new RouterSettings(2, false, 2, Scoring: RouterScoring.Sigmoid);
        var plain = Route([0, 1.0986123f, -1.0986123f], settings);
        Assert.Equal([1, 0], plain.Indices);
        Close([1.5f, 1], plain.Weights);
        var moved = Route([0, 1.0986123f, -1.0986123f], settings, [0, 0, 10]);
        Assert.Equal([2, 1], moved.Indices);
        Close([0.5f, 1.5f], moved.Weights);
        Close([0.5f, 1.5f], Route([0, 1.0986123f, -1.0986123f], settings with { Normalise = true }, [0, 0, 10]).Weights); // 2 · (1/4, 3/4) / 1
    }

    [Fact]
    public void With_sigmoids_a_group_counts_as_much_as_its_two_best_experts()
    {
        // Choice scores 0.9 0.1 | 0.6 0.6: the second group wins 1.2 to 1.0 although the best expert is in the first.
        float[] logits = [MathF.Log(9), -MathF.Log(9), MathF.Log(1.5f), MathF.Log(1.5f)];
        var (weights, indices) = Route(logits, new RouterSettings(1, false, 1, Scoring: RouterScoring.Sigmoid, Groups: 2, KeptGroups: 1));
        Assert.Equal([2], indices);
        Close([0.6f], weights);
    }

    [Fact]
    public void Experts_outside_the_kept_groups_stay_out_where_all_choice_scores_are_negative()
    {
        var settings = new RouterSettings(3, true, 1, Scoring: RouterScoring.Sigmoid, Groups: 3, KeptGroups: 2);
        Assert.Equal([2, 3, 4], Route(new float[6], settings, [-9, -9, -2, -3, -4, -5]).Indices);
    }

    [Fact]
    public void Equals_go_to_the_lower_experts_of_the_lower_groups()
    {
        Assert.Equal([0, 1, 2], Route(new float[8], new RouterSettings(3, true, 1, Groups: 4, KeptGroups: 2)).Indices);
        Assert.Equal([0, 1, 2], Route(new float[8], new RouterSettings(3, true, 1, Scoring: RouterScoring.Sigmoid, Groups: 4, KeptGroups: 2),
            new float[8]).Indices);
    }

    private static (float[] Weights, int[] Indices) Route(float[] logits, RouterSettings settings, float[]? bias = null)
    {
        using var z = Tensor.From(logits, 1, logits.Length);
        using var b = bias is null ? null : Tensor.From(bias, bias.Length);
        var (weights, indices) = Router.Apply(z, settings, b);
        using (weights)
        using (indices) return (weights.ToFloats(), indices.ToInts());
    }

    private static void Close(float[] expected, float[] actual)
    {
        Assert.Equal(expected.Length, actual.Length);
        Assert.All(expected.Zip(actual), p => Assert.Equal(p.First, p.Second, 1e-6f * Math.Max(1, p.First)));
    }
}
