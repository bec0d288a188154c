using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>
/// How an expert's rows are cut into tasks (chains.cpp: columns in shares, narrow products in the task or before it) and how its pairs' gradients are summed
/// (low_rank.cpp: row by row up to rank 16, products above) changes no value.
/// </summary>
[Collection("cpu variant")]
public sealed class ExpertChainsTests
{
    private const int Inner = 416; // six shares of columns

    /// <summary>Below and above what low_rank.cpp sums row by row, and what chains.cpp computes again in every share.</summary>
    public static TheoryData<string, int, bool> Cases
    {
        get
        {
            TheoryData<string, int, bool> cases = [];
            foreach (var variant in OnVariant.All)
                foreach (var rank in (int[])[3, 16, 17, 40])
                    foreach (var tiled in (bool[])[false, true])
                        cases.Add(variant, rank, tiled);
            return cases;
        }
    }

    [Theory, MemberData(nameof(Cases))]
    public void Values_and_gradients_are_the_definitions_on_any_number_of_threads(string variant, int rank, bool tiled)
    {
        float[][]? first = null;
        foreach (var threads in (int[])[1, 2, 5])
        {
            using var on = new OnVariant(variant, threads);
            Assert.SkipWhen(tiled && !Cpu.MultipliesTiles, $"{variant} does not multiply tiles");
            var results = Run(rank, tiled);
            if (first == null)
            {
                float[][] plain;
                using (Op.UsePlain()) plain = Run(rank, tiled: false);
                for (var i = 0; i < plain.Length; i++) Close(plain[i], results[i], $"result {i}");
                first = results;
            }
            for (var i = 0; i < first.Length; i++) Assert.Equal(first[i], results[i]);
        }
    }

    private static float[][] Run(int rank, bool tiled)
    {
        using var layer = new ExpertLayer(StorageFormat.BF16, DType.BF16, Device.Cpu, 120, lora: true, clamped: false, tiled, rank, Inner);
        return layer.Run();
    }

    private static void Close(float[] expected, float[] actual, string what)
    {
        var distance = Math.Sqrt(expected.Zip(actual, (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected.Sum(a => (double)a * a));
        Assert.True(distance < 0.006, $"{what}: {distance:P2}");
    }
}
