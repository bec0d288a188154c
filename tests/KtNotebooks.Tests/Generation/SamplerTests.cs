using KtNotebooks.Generation;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>Distributions of 20,000 draws: a share p is met within four standard deviations, √(p(1−p)/n).</summary>
public class SamplerTests
{
    private const int Draws = 20000;

    // Probabilities 0.5, 0.25, 0.15, 0.1, not in order.
    private static readonly double[] Shares = [0.15, 0.5, 0.1, 0.25];

    [Theory, InlineData(true), InlineData(false)]
    public void Logits_that_are_no_numbers_are_refused(bool draws)
    {
        var message = Assert.Throws<InvalidDataException>(() => new Sampler(new Sampling(DoSample: draws)).Next([1, float.NaN, 2], [])).Message;
        Assert.StartsWith("the model's answer is not a number (NaN): a weight of the model or of its adapter is", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Draws_follow_the_softmax() => Check(new Sampling(TopP: 1, TopK: 0, Temperature: 1), Shares);

    [Theory]
    [InlineData(0.5)]
    [InlineData(2)]
    public void Temperature_is_the_exponent_s_divisor(double temperature) =>
        Check(new Sampling(TopP: 1, TopK: 0, Temperature: temperature), [.. Shares.Select(p => Math.Pow(p, 1 / temperature))]);

    [Fact]
    public void Top_k_keeps_the_k_most_likely() => Check(new Sampling(TopP: 1, TopK: 2, Temperature: 1), [0, 0.5, 0, 0.25]);

    [Theory]
    [InlineData(0.4, new[] { 0, 1.0, 0, 0 })]
    [InlineData(0.6, new[] { 0, 0.5, 0, 0.25 })]
    [InlineData(0.8, new[] { 0.15, 0.5, 0, 0.25 })]
    public void Top_p_keeps_the_shortest_list_that_reaches_p(double p, double[] shares) => Check(new Sampling(TopP: p, TopK: 0, Temperature: 1), shares);

    [Fact]
    public void Top_p_looks_at_what_top_k_left() => Check(new Sampling(TopP: 0.66, TopK: 2, Temperature: 1), [0, 1, 0, 0]);

    [Fact]
    public void A_repetition_penalty_makes_seen_tokens_less_likely()
    {
        float[] logits = [2, 1.9f, -1];
        Assert.Equal(1, new Sampler(new Sampling(DoSample: false, RepetitionPenalty: 1.2)).Next(logits, [0, 0, 2]));
        Assert.Equal([2 / 1.2f, 1.9f, -1.2f], logits);
    }

    [Fact]
    public void The_largest_logit_wins_without_sampling() => Assert.Equal(1, new Sampler(Sampling.Greedy(1)).Next([1, 3, 2], []));

    [Theory]
    [InlineData(0, 1, 0.9, 50, 1, "max_new_tokens must be at least 1, but is 0")]
    [InlineData(1, -1, 0.9, 50, 1, "temperature must not be negative, but is -1")]
    [InlineData(1, 1, 0, 50, 1, "top_p must be in (0, 1], but is 0")]
    [InlineData(1, 1, 1.1, 50, 1, "top_p must be in (0, 1], but is 1.1")]
    [InlineData(1, 1, 1, -1, 1, "top_k must be 0 (off) or positive, but is -1")]
    [InlineData(1, 1, 1, 0, 0, "repetition_penalty must be positive, but is 0")]
    public void Values_out_of_range_are_named(int tokens, double temperature, double topP, int topK, double penalty, string message) =>
        Assert.Equal(message, Assert.Throws<ArgumentException>(() => new Sampler(new Sampling(tokens, true, temperature, topP, topK, penalty))).Message);

    /// <summary>
    /// Against a sampler that puts the whole vocabulary in order for every token: the same draws, whatever the shape of the distribution, equal logits and
    /// tokens that cannot be (−∞) included.
    /// </summary>
    [Theory]
    [InlineData("a few tokens have nearly all")]
    [InlineData("flat: the nucleus is most of the vocabulary")]
    [InlineData("many equal ones")]
    [InlineData("two of three cannot be")]
    public void Draws_are_those_of_a_full_sort(string shape)
    {
        for (var seed = 1; seed <= 100; seed++)
        {
            var random = new Random(seed);
            var V = random.Next(1, 6000);
            var settings = new Sampling(TopP: random.Next(3) == 0 ? 1 : random.Next(1, 100) / 100.0, TopK: random.Next(2) == 0 ? 0 : random.Next(1, 800),
                Temperature: 0.2 + random.NextDouble(), Seed: (ulong)seed);
            float[] logits = [.. Enumerable.Range(0, V).Select(_ => shape[0] switch
            {
                'a' => (float)((random.NextDouble() - 0.5) * 40),
                'f' => (float)(random.NextDouble() * 0.01),
                'm' => random.Next(6),
                _ => random.Next(3) > 0 ? float.NegativeInfinity : (float)random.NextDouble() * 8,
            })];
            logits[random.Next(V)] = 3;
            var (sampler, reference) = (new Sampler(settings), new NormalRandom((ulong)seed, "sampler"));
            for (var draw = 0; draw < 5; draw++) Assert.Equal(BySorting([.. logits], settings, reference), sampler.Next([.. logits], []));
        }
    }

    private static int BySorting(float[] logits, Sampling settings, NormalRandom random)
    {
        for (var i = 0; i < logits.Length; i++) logits[i] /= (float)settings.Temperature;
        int[] order = [.. Enumerable.Range(0, logits.Length).OrderByDescending(i => logits[i]).Take(settings.TopK == 0 ? logits.Length : settings.TopK)];
        double[] probabilities = [.. order.Select(i => Math.Exp(logits[i] - logits[order[0]]))];
        var (sum, mass, nucleus) = (probabilities.Sum(), 0.0, 0);
        while (nucleus < order.Length && (nucleus == 0 || mass < settings.TopP * sum)) mass += probabilities[nucleus++];
        var draw = random.Uniform() * Math.Min(mass, sum);
        for (var i = 0; i < nucleus; i++)
            if ((draw -= probabilities[i]) < 0) return order[i];
        return order[nucleus - 1];
    }

    private static void Check(Sampling settings, double[] shares)
    {
        var sampler = new Sampler(settings);
        var counts = new int[shares.Length];
        for (var i = 0; i < Draws; i++) counts[sampler.Next([.. Shares.Select(p => (float)Math.Log(p))], [])]++;
        var sum = shares.Sum();
        for (var i = 0; i < shares.Length; i++)
        {
            var p = shares[i] / sum;
            Assert.InRange((double)counts[i] / Draws, p - (4 * Math.Sqrt(p * (1 - p) / Draws)), p + (4 * Math.Sqrt(p * (1 - p) / Draws)));
        }
    }
}
