using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Nn;

/// <summary>
/// Latent attention through its cache, at DeepSeek-V2-Lite's head sizes and a small width: what is kept a token, and that rows behind cached ones see what
/// they saw without a cache.
/// </summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)]
public class MlaCacheTests
{
    private static readonly MlaSettings Lite = new(32, null, 512, new MlaShape(H: 3, Nope: 128, Rope: 64, Value: 128), 0.1f, 1e-6f);

    public static TheoryData<string, DType, bool, bool> Places => new()
    {
        { "cpu", DType.F32, false, false }, { "cpu", DType.F32, true, false }, { "cpu", DType.BF16, true, false }, { "cpu", DType.F32, true, true },
        { "cuda:0", DType.F32, true, false }, { "cuda:0", DType.BF16, false, false }, { "cuda:0", DType.BF16, true, false },
    };

    [Fact]
    public void A_token_keeps_its_latent_and_its_rotary_key_alone()
    {
        using var layer = Layer(DType.BF16, lowRank: false);
        using var x = Rows(DType.BF16, 64);
        using var cache = new KvCache();
        using (var tape = Tape.Scratch())
        using (var held = cache.Batch([cache.Add()], [64])) layer.Forward(x, new Pass([.. Enumerable.Range(0, 64)], [0, 64], Cache: held));
        Assert.Equal(576 * 2, cache.BytesPerToken); // keys and values of 3 heads would be 3 · (192 + 128) · 2
        Assert.Equal(64 * 576 * 2, cache.ByteLength);
    }

    /// <summary>Two sequences in pieces: a prompt, single rows, a piece of several rows behind cached ones; against the whole at once.</summary>
    [Theory]
    [MemberData(nameof(Places))]
    public void Pieces_give_what_the_whole_gives(string where, DType type, bool lowRank, bool alike)
    {
        var device = Device.Parse(where);
        if (device.Kind == DeviceKind.Cuda) Require.Hardware("cuda", CudaDevice.Missing);
        using var layer = Layer(type, lowRank);
        using var onDevice = device.Kind == DeviceKind.Cpu ? null : Layer(type, lowRank, device);
        using var a = Rows(type, 140, seed: 5);
        using var b = Rows(type, 30, seed: 6);
        var (wholeA, wholeB) = (Whole(layer, a), Whole(layer, b));
        using var cache = new KvCache();
        CachedSequence[] sequences = [cache.Add(), cache.Add()];
        var (atA, atB) = (0, 0);
        foreach (var (stepA, stepB) in ((int, int)[])[(131, 0), (1, 20), (1, 1), (0, 1), (7, 8)])
        {
            using var tape = Tape.Scratch();
            using var x = Tensor.Empty(type, stepA + stepB, Lite.Width);
            Put(a, atA, x, 0, stepA);
            Put(b, atB, x, stepA, stepB);
            int[] positions = [.. Enumerable.Range(atA, stepA), .. Enumerable.Range(atB, stepB)];
            using var moved = x.To(device);
            using var held = cache.Batch(sequences, [stepA, stepB]);
            var y = (onDevice ?? layer).Forward(moved, new Pass(positions, [0, stepA, stepA + stepB], Cache: held, RowsAlike: alike)).ToFloats();
            held.Commit();
            Close(wholeA.AsSpan(atA * Lite.Width, stepA * Lite.Width), y.AsSpan(0, stepA * Lite.Width), type);
            Close(wholeB.AsSpan(atB * Lite.Width, stepB * Lite.Width), y.AsSpan(stepA * Lite.Width), type);
            (atA, atB) = (atA + stepA, atB + stepB);
        }
    }

    /// <summary>
    /// A running sequence and a new one in a batch: the named adapter acts on both, as it acts on each alone, and where the base is asked for it acts on
    /// none.
    /// </summary>
    [Theory]
    [InlineData("red")]
    [InlineData(Pass.BaseModel)]
    public void A_named_adapter_acts_on_running_and_on_new_sequences(string name)
    {
        using var layer = Layer(DType.F32, lowRank: true); // the attached pair, which a pass with a name must not meet
        if (name == "red")
            foreach (var linear in layer.All().OfType<KtNotebooks.Nn.Linear>())
                linear.Named.Add(name, new LinearLora(Rows(DType.F32, 4, 21, linear.Inputs), Rows(DType.F32, linear.Outputs, 22, 4), 0.05f));
        using var a = Rows(DType.F32, 12, seed: 5);
        using var b = Rows(DType.F32, 9, seed: 6);
        var (wholeA, wholeB) = (Whole(layer, a, name), Whole(layer, b, name));
        using var cache = new KvCache();
        using var tape = Tape.Scratch();
        CachedSequence[] sequences = [cache.Add(), cache.Add()];
        using var prompt = a.Slice(0, 11);
        using var first = cache.Batch(sequences[..1], [11]);
        layer.Forward(prompt, new Pass([.. Enumerable.Range(0, 11)], [0, 11], Cache: first, Adapter: name));
        first.Commit();
        using var second = cache.Batch(sequences, [1, 9]);
        using var x = Tensor.Empty(DType.F32, 10, Lite.Width);
        Put(a, 11, x, 0, 1);
        Put(b, 0, x, 1, 9);
        var y = layer.Forward(x, new Pass([11, .. Enumerable.Range(0, 9)], [0, 1, 10], Cache: second, Adapter: name)).ToFloats();
        Close(wholeA.AsSpan(11 * Lite.Width), y.AsSpan(0, Lite.Width), DType.F32);
        Close(wholeB, y.AsSpan(Lite.Width), DType.F32);
    }

    private static MlaAttention Layer(DType type, bool lowRank, Device? device = null)
    {
        var layer = new MlaAttention(new Placed(new RandomWeights(3, deviation: 0.1f), device ?? Device.Cpu), "a", type, Lite, new RotaryTable(64, 10000));
        if (!lowRank) return layer;
        foreach (var linear in layer.All().OfType<KtNotebooks.Nn.Linear>())
        {
            using var a = Rows(DType.F32, 4, 11, linear.Inputs);
            using var b = Rows(DType.F32, linear.Outputs, 12, 4);
            linear.Adapter = new LinearLora(a.To(device ?? Device.Cpu), b.To(device ?? Device.Cpu), 0.05f);
        }
        return layer;
    }

    private static float[] Whole(MlaAttention layer, Tensor x, string? adapter = null)
    {
        using var tape = Tape.Scratch();
        return layer.Forward(x, new Pass([.. Enumerable.Range(0, x.Rows)], [0, x.Rows], Adapter: adapter)).ToFloats();
    }

    private static Tensor Rows(DType type, int rows, int seed = 4, int width = 32)
    {
        var random = new Random(seed);
        return Tensor.From([.. Enumerable.Range(0, rows * width).Select(_ => (random.NextSingle() - 0.5f) * 2)], type, rows, width);
    }

    private static void Put(Tensor source, int from, Tensor target, int to, int count)
    {
        using var s = source.Slice(from, count);
        using var t = target.Slice(to, count);
        Memory.Copy(s, t);
    }

    /// <summary>By the norm of the difference: sums of 576 terms in another order; in BF16 some ten roundings of 2⁻⁹ on the way.</summary>
    private static void Close(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, DType type)
    {
        Assert.Equal(expected.Length, actual.Length);
        double difference = 0, size = 0;
        for (var i = 0; i < expected.Length; i++)
        {
            difference += ((double)expected[i] - actual[i]) * ((double)expected[i] - actual[i]);
            size += (double)expected[i] * expected[i];
        }
        var error = Math.Sqrt(difference / Math.Max(size, double.Epsilon));
        Assert.True(error <= (type == DType.F32 ? 1e-5 : 0.02), $"relative error {error:E2}");
    }

    /// <summary>Weights made on the host, handed out on a device.</summary>
    private sealed class Placed(IWeights weights, Device device) : IWeights
    {
        public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
        {
            using var host = weights.Take(name, type, shape);
            return host.To(device);
        }

        public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k) => throw new NotSupportedException();
    }
}
