using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Experts;

/// <summary>One layer with made-up numbers, the same on every device.</summary>
internal sealed class ExpertLayer : IDisposable
{
    internal const int E = 7, D = 192, I = 96, K = 3, Rank = 5;

    private readonly Random _random = new(7);
    private readonly List<Tensor> _owned = [];
    private readonly Matrices[] _banks;
    private readonly IExpertExecutor _executor;

    public ExpertLayer(StorageFormat format, DType type, Device device, int tokens, bool lora, bool clamped, bool tiled = false, int rank = Rank,
        int inner = I)
    {
        _banks = [Bank(format, inner, D), Bank(format, inner, D), Bank(format, D, inner)];
        if (tiled) _banks = [.. _banks.Select(b => b.Tile())];
        var set = new ExpertSet(_banks[0], _banks[1], _banks[2]);
        if (clamped) set = set with { Glu = new ClampedSwiGlu(Normal(DType.F32, Device.Cpu, 0.5f, E, 2 * inner), 1.5f) };
        Tensor Pair(params ReadOnlySpan<long> shape)
        {
            var pair = Normal(DType.F32, device, 0.4f, shape);
            pair.RequiresGrad = true;
            return pair;
        }
        if (lora)
            set = set with
            {
                Lora = new ExpertLora(Pair(E, rank, D), Pair(E, inner, rank), Pair(E, rank, D), Pair(E, inner, rank), Pair(E, rank, inner),
                    Pair(E, D, rank), 2),
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
