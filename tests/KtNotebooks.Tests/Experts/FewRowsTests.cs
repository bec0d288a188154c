using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>A few tokens through experts on a card, without sorting: the definition's numbers, and a token's own whatever runs beside it.</summary>
[Trait("card", "cuda")]
[Collection("cpu variant")]
public sealed class FewRowsTests
{
    private const int E = 7, D = 192, I = 96, K = 3, Rank = 5;

    [Theory]
    [InlineData("f32", false, false)]
    [InlineData("bf16", true, false)]
    [InlineData("bf16", false, true)]
    [InlineData("fp8", false, false)]
    [InlineData("int8", true, false)]
    [InlineData("int4", true, false)]
    [InlineData("mxfp4", true, true)]
    public void Values_and_gradients_are_the_definition_s(string formatName, bool lora, bool clamped)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var format = StorageFormat.Parse(formatName);
        var type = format == StorageFormat.F32 ? DType.F32 : DType.BF16;
        foreach (var tokens in (int[])[1, 5, FewRows.MaxTokens])
        {
            using var host = new Layer(format, type, Device.Cpu, tokens, lora, clamped);
            using var card = new Layer(format, type, Device.Cuda(), tokens, lora, clamped);
            Assert.True(FewRows.Suits(card.Call, new BankLayout(card.Call.Experts)));
            float[][] expected;
            using (Op.UsePlain()) expected = host.Run();
            var actual = card.Run();
            for (var i = 0; i < expected.Length; i++)
            {
                var distance = Math.Sqrt(expected[i].Zip(actual[i], (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected[i].Sum(a => (double)a * a));
                Assert.True(distance < (type == DType.F32 ? 1e-5 : 0.01), $"{tokens} tokens, result {i}: {distance:P3} away");
            }
        }
    }

    [Theory]
    [InlineData("bf16")]
    [InlineData("int4")]
    public void A_token_is_the_same_alone_and_among_others(string formatName)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var many = new Layer(StorageFormat.Parse(formatName), DType.BF16, Device.Cuda(), FewRows.MaxTokens, lora: true, clamped: false);
        var all = many.Value();
        for (var t = 0; t < FewRows.MaxTokens; t += 5) Assert.Equal(all[(t * D)..((t + 1) * D)], many.Value(t));
    }

    [Fact]
    public void Many_tokens_dropout_and_odd_widths_take_the_other_way()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var layer = new Layer(StorageFormat.BF16, DType.BF16, Device.Cuda(), FewRows.MaxTokens + 1, lora: true, clamped: false);
        Assert.False(FewRows.Suits(layer.Call, new BankLayout(layer.Call.Experts)));
        using var few = new Layer(StorageFormat.BF16, DType.BF16, Device.Cuda(), 2, lora: true, clamped: false);
        var layout = new BankLayout(few.Call.Experts);
        Assert.True(FewRows.Suits(few.Call, layout));
        Assert.False(FewRows.Suits(few.Call with { ValueUnused = true }, layout));
        Assert.False(FewRows.Suits(few.Call with { Experts = few.Call.Experts with { Lora = few.Call.Experts.Lora! with { Dropout = 0.1f } } }, layout));
        Assert.False(FewRows.Suits(few.Call, new BankLayout(E, D, I + 4, StorageFormat.BF16)));
    }

    /// <summary>One layer with made-up numbers, the same on every device.</summary>
    private sealed class Layer : IDisposable
    {
        private readonly Random _random = new(7);
        private readonly List<Tensor> _owned = [];
        private readonly Matrices[] _banks;
        private readonly IExpertExecutor _executor;

        public Layer(StorageFormat format, DType type, Device device, int tokens, bool lora, bool clamped)
        {
            _banks = [Bank(format, I, D), Bank(format, I, D), Bank(format, D, I)];
            var set = new ExpertSet(_banks[0], _banks[1], _banks[2]);
            if (clamped) set = set with { Glu = new ClampedSwiGlu(Normal(DType.F32, Device.Cpu, 0.5f, E, 2 * I), 1.5f) };
            Tensor Pair(params ReadOnlySpan<long> shape)
            {
                var pair = Normal(DType.F32, device, 0.4f, shape);
                pair.RequiresGrad = true;
                return pair;
            }
            if (lora)
                set = set with
                {
                    Lora = new ExpertLora(Pair(E, Rank, D), Pair(E, I, Rank), Pair(E, Rank, D), Pair(E, I, Rank), Pair(E, Rank, I), Pair(E, D, Rank), 2),
                };
            var (x, weights) = (Normal(type, device, 2, tokens, D), Normal(DType.F32, device, 1, tokens, K));
            (x.RequiresGrad, weights.RequiresGrad) = (true, true);
            using var indices = Tensor.From([.. Enumerable.Range(0, tokens * K).Select(i => (i / K * 4 + i % K * 2) % E)], tokens, K);
            var chosen = indices.To(device);
            _owned.Add(chosen);
            Call = new ExpertCall(set, default, x, weights, chosen);
            _executor = device.Kind == DeviceKind.Cuda ? new ResidentExperts(set, device, type, 1 << 20) : UnplacedExperts.On(device);
        }

        public ExpertCall Call { get; }

        /// <summary>y, dx, the weights' gradient and those of the low-rank pairs, for dy = y.</summary>
        public float[][] Run()
        {
            using var tape = Tape.Record();
            var y = RoutedExperts.Apply(Call, _executor);
            using var dy = y.Clone();
            var value = y.ToFloats();
            tape.Backward(y, dy);
            Tensor[] trained = [Call.X, Call.Weights, .. Call.Experts.Lora?.All ?? []];
            return [value, .. trained.Select(t =>
            {
                using var gradient = t.Grad!;
                t.Grad = null;
                return gradient.ToFloats();
            })];
        }

        /// <summary>y of all tokens, or of one alone.</summary>
        public float[] Value(int? token = null)
        {
            using var tape = Tape.Scratch();
            using var x = Call.X.Slice(token ?? 0, token is null ? Call.X.Rows : 1);
            using var weights = Call.Weights.Slice(token ?? 0, x.Rows);
            using var indices = Call.Indices.Slice(token ?? 0, x.Rows);
            return RoutedExperts.Apply(Call with { X = x, Weights = weights, Indices = indices }, _executor).ToFloats();
        }

        public void Dispose()
        {
            if (_executor is ResidentExperts) _executor.Dispose();
            foreach (var bank in _banks) bank.DisposeEach();
            Call.Experts.Glu?.Dispose();
            foreach (var tensor in _owned) tensor.Dispose();
        }

        private Matrices Bank(StorageFormat format, int n, int k)
        {
            Tensor[] each = [.. Enumerable.Range(0, E).Select(_ => Normal(format == StorageFormat.F32 ? DType.F32 : DType.BF16, Device.Cpu, 0.5f, n, k))];
            if (!format.IsLowBit) return Matrices.Each(each);
            var parts = each.Select(format.Quantize).ToArray();
            return Matrices.Each(format, [.. parts.Select(p => p.Data)], [.. parts.Select(p => p.Scales)], n, k);
        }

        private Tensor Normal(DType type, Device device, float scale, params ReadOnlySpan<long> shape)
        {
            long count = 1;
            foreach (var dim in shape) count *= dim;
            using var host = Tensor.From([.. Enumerable.Range(0, (int)count).Select(_ => scale * ((float)_random.NextDouble() - 0.5f))], type, shape);
            var tensor = host.To(device);
            _owned.Add(tensor);
            return tensor;
        }
    }
}
