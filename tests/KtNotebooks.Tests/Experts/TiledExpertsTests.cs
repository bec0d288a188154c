using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>Experts that were laid out in the CPU kernels' tiles are the experts that they were.</summary>
[Collection("cpu variant")]
public sealed class TiledExpertsTests
{
    private const int E = 6, D = 70, I = 53, K = 2, Rank = 5;

    public static TheoryData<string> Variants => OnVariant.All;

    [Theory, MemberData(nameof(Variants))]
    public void A_layer_in_tiles_is_the_layer_in_rows(string variant)
    {
        using var on = new OnVariant(variant);
        Assert.SkipUnless(Cpu.MultipliesTiles, $"{variant} does not multiply tiles");
        foreach (var tokens in (int[])[1, 3, 5, 90])
        {
            var (rows, tiles) = (Run(tokens, tiled: false), Run(tokens, tiled: true));
            foreach (var (name, expected) in rows) Close(expected, tiles[name], $"{name} of {tokens} tokens");
        }
    }

    [Fact]
    public void Tiles_give_their_numbers_back()
    {
        using var on = new OnVariant("amx-emulated");
        foreach (var (n, k) in ((int, int)[])[(1, 1), (16, 32), (53, 70), (32, 33)])
        {
            var random = new Random(n);
            var values = Enumerable.Range(0, n * k).Select(_ => Bf16.Round((float)random.NextDouble() - 0.5f)).ToArray();
            var tiles = Matrices.Each([Tensor.From(values, DType.BF16, n, k)]).Tile();
            Assert.Equal(MatrixLayout.Tiles, tiles.Layout);
            Assert.Equal(values, tiles.ToFloats(0, DType.BF16));
            tiles.DisposeEach();
        }
    }

    [Fact]
    public void Rows_in_F32_and_variants_without_tiles_are_refused()
    {
        Matrices tiles;
        using (new OnVariant("amx-emulated")) tiles = Matrices.Each([Tensor.From(new float[64], DType.BF16, 8, 8)]).Tile();
        using (new OnVariant("amx-emulated"))
            Assert.Contains("BF16 rows alone", Refusal(tiles, DType.F32));
        using (new OnVariant("avx2"))
            Assert.Contains("'avx2' does not multiply tiled weights", Refusal(tiles, DType.BF16));
        tiles.DisposeEach();
    }

    private static string Refusal(Matrices w, DType rows)
    {
        using var x = Tensor.From(new float[8], rows, 1, 8);
        using var y = Tensor.Empty(rows, 1, 8);
        return Assert.Throws<KtNativeException>(() => KtNotebooks.Ops.GroupedMatmul.Forward([0, 1], x, null, w, null, null, 0, null, y)).Message;
    }

    /// <summary>y, dx, the weights' and the low-rank gradients.</summary>
    private static Dictionary<string, float[]> Run(int tokens, bool tiled)
    {
        var random = new Random(3);
        Tensor Normal(DType type, float scale, params ReadOnlySpan<long> shape)
        {
            long count = 1;
            foreach (var dim in shape) count *= dim;
            return Tensor.From([.. Enumerable.Range(0, (int)count).Select(_ => scale * ((float)random.NextDouble() - 0.5f))], type, shape);
        }
        Matrices Bank(int n, int k)
        {
            var each = Matrices.Each([.. Enumerable.Range(0, E).Select(_ => Normal(DType.BF16, 0.5f, n, k))]);
            return tiled ? each.Tile() : each;
        }
        Tensor Trained(int a, int b)
        {
            var pair = Normal(DType.F32, 0.3f, E, a, b);
            pair.RequiresGrad = true;
            return pair;
        }
        var (gate, up, down) = (Bank(I, D), Bank(I, D), Bank(D, I));
        using var lora = new ExpertLora(Trained(Rank, D), Trained(I, Rank), Trained(Rank, D), Trained(I, Rank), Trained(Rank, I), Trained(D, Rank), 2);
        using var x = Normal(DType.BF16, 2, tokens, D);
        using var dy = Normal(DType.BF16, 2, tokens, D);
        using var weights = Normal(DType.F32, 1, tokens, K);
        // Expert 4 gets nothing.
        using var indices = Tensor.From([.. Enumerable.Range(0, tokens).SelectMany(t => (int[])[t % 4, t % 3 == 0 ? 5 : (t + 1) % 4])], tokens, K);
        (x.RequiresGrad, weights.RequiresGrad) = (true, true);
        Dictionary<string, float[]> results = [];
        using (var tape = Tape.Record())
        {
            var y = RoutedExperts.Apply(x, weights, indices, new ExpertSet(gate, up, down, lora));
            results["y"] = y.ToFloats();
            tape.Backward(y, dy);
        }
        (string, Tensor)[] all = [("x", x), ("weights", weights), .. lora.All.Select((t, i) => ($"pair {i}", t))];
        foreach (var (name, tensor) in all)
        {
            results["d" + name] = tensor.Grad!.ToFloats();
            tensor.Grad.Dispose();
        }
        foreach (var matrices in (Matrices[])[gate, up, down]) matrices.DisposeEach();
        return results;
    }

    /// <summary>Relative distance within what BF16 intermediates leave.</summary>
    private static void Close(float[] expected, float[] actual, string what)
    {
        var distance = Math.Sqrt(expected.Zip(actual, (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected.Sum(a => (double)a * a));
        Assert.True(distance < 0.005, $"{what}: {distance:P2}");
    }
}
