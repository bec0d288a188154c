using KtNotebooks.Generation;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>What a card says of a row is its likeliest tokens in order, and a draw from them is the draw from all logits or none.</summary>
public sealed class ShortlistTests
{
    private static readonly float[] Odd = [0f, -0f, float.NegativeInfinity, float.PositiveInfinity, 1f, 1f, -1f, float.Epsilon, float.MinValue];

    [Theory]
    [Trait("card", "cuda")]
    [InlineData(1, 5, 5)]
    [InlineData(3, 64, 63)]
    [InlineData(2, 300, 256)]
    [InlineData(5, 4097, 4097)]
    [InlineData(2, 102400, 102399)]
    [InlineData(1, 201088, 200019)]
    public unsafe void A_card_finds_the_likeliest_in_order(int rows, int width, int used)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var random = new Random(width);
        float[] values = [.. Enumerable.Range(0, rows * width).Select(i => i % 7 == 3 ? Odd[random.Next(Odd.Length)] : random.Next(40_000) / 100f)];
        if (rows > 1) values[width + (used / 2)] = float.NaN;
        using var logits = Memory.Place(values, Device.Cuda()).View(rows, width);
        using var list = Tensor.Empty(DType.I32, Device.Cuda(), rows, 2 * Shortlist.Length);
        Assert.True(ShortlistKernels.Suits(used));
        ShortlistKernels.Find(logits, used, list.Pointer);
        var words = list.ToInts();
        for (var r = 0; r < rows; r++)
            fixed (int* row = words.AsSpan(r * 2 * Shortlist.Length))
            {
                var found = new Shortlist(new ReadOnlySpan<ulong>(row, Shortlist.Length), used);
                Assert.Equal(r != 1, found.IsNumber);
                if (r == 1) continue;
                var from = r * width;
                int[] expected = [.. Enumerable.Range(0, used).OrderByDescending(i => values[from + i]).ThenBy(i => i).Take(Shortlist.Length)];
                Assert.Equal(expected.Length, found.Count);
                var (said, numbers) = (new float[found.Count], new int[found.Count]);
                found.CopyTo(said, numbers);
                Assert.Equal(expected, numbers);
                Assert.Equal(expected.Select(i => values[from + i]), said);
            }
    }

    /// <summary>With every setting that acts on a draw, each alone and together; how many of them the list is enough for is said here too.</summary>
    [Theory]
    [InlineData(true, "greedy", 0, 1, 0, 0, 0, false)]
    [InlineData(true, "greedy", 0, 1, 0, 0, 0, true)]
    [InlineData(true, "greedy", 0, 1.3, 0.5, 0.2, 0, true)]
    [InlineData(true, "drawn", 50, 1, 0, 0, 0, false)]
    [InlineData(true, "drawn", 50, 1.05, 0, 0, 0, true)]
    [InlineData(true, "drawn", 20, 1.2, 0.5, 0.3, 0.05, true)]
    [InlineData(true, "drawn", 1, 1, 0, 0, 0, false)]
    [InlineData(false, "drawn", 63, 3, 9, 9, 0, true)] // so many are lowered so far that others may be likelier
    [InlineData(false, "drawn", 64, 1, 0, 0, 0, false)]
    [InlineData(false, "drawn", 0, 1, 0, 0, 0, false)]
    [InlineData(false, "drawn", 50, 0.9, 0, 0, 0, false)]
    [InlineData(false, "drawn", 50, 1, -0.5, 0, 0, false)]
    public void A_draw_from_the_list_is_the_draw_from_all(bool enough, string kind, int topK, double repetition, double presence, double frequency, double minP,
        bool biased)
    {
        const int Vocabulary = 3000, Steps = 200;
        var settings = new Sampling(DoSample: kind == "drawn", TopK: topK, TopP: 0.9, Temperature: 0.8, RepetitionPenalty: repetition)
        {
            PresencePenalty = presence,
            FrequencyPenalty = frequency,
            MinP = minP,
        };
        var (whole, listed, random) = (new Sampler(settings), new Sampler(settings), new Random(5));
        var (drawn, sufficed) = (new List<int>(), 0);
        for (var step = 0; step < Steps; step++)
        {
            // Values of few kinds: equal ones are everywhere.
            float[] logits = [.. Enumerable.Range(0, Vocabulary).Select(i => random.Next(600) / 50f)];
            var bias = biased ? Enumerable.Range(0, 4).ToDictionary(i => Array.IndexOf(logits, logits.Max()) - i + 3, i => -i * 3f) : [];
            if (biased) bias = bias.Where(b => b.Key is >= 0 and < Vocabulary).ToDictionary();
            var isEnough = listed.TryNext(new Shortlist(Keys(logits), Vocabulary), bias, drawn, drawn, out var fromList);
            foreach (var (id, value) in bias) logits[id] += value;
            var before = logits.ToArray();
            var fromAll = isEnough ? whole.Next(logits, drawn, drawn) : listed.Next(logits, drawn, drawn);
            if (!isEnough) Assert.Equal(fromAll, whole.Next(before, drawn, drawn)); // both samplers have drawn as often
            else Assert.Equal(fromAll, fromList);
            sufficed += isEnough ? 1 : 0;
            drawn.Add(fromAll);
        }
        Assert.True(enough ? sufficed > Steps / 2 : sufficed < Steps / 2, $"the list was enough for {sufficed} of {Steps} draws");
    }

    [Fact]
    public void A_list_with_what_is_no_number_is_not_enough() =>
        Assert.False(new Sampler(Sampling.Greedy(1)).TryNext(new Shortlist(Keys([1, float.NaN, .. Enumerable.Repeat(0f, 100)]), 102),
            new Dictionary<int, float>(), [], [], out _));

    /// <summary>As the card orders them.</summary>
    private static ulong[] Keys(float[] logits) => [.. logits.Select((l, i) => (Order(l) << 32) | ~(uint)i).OrderDescending().Take(Shortlist.Length)];

    private static ulong Order(float logit)
    {
        var bits = BitConverter.SingleToUInt32Bits(logit == 0 ? 0 : logit);
        return float.IsNaN(logit) ? uint.MaxValue : (bits & 0x80000000) != 0 ? ~bits : bits | 0x80000000;
    }
}
