using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The CPU's share of experts whose rows are on a card (<see cref="HostShare"/>): x [T, D] and the routes come to pinned host memory, a helper thread
/// computes while the card works on the other groups, and what it found goes back as one sum over the share's routes. T × (D·(2 + 4) + k·8) bytes cross the
/// bus, whatever the number of experts.
/// </summary>
internal sealed class HostExperts : IDisposable
{
    private readonly ExpertSet _experts;
    private readonly RouteKey _key;
    private readonly int[] _offsets;
    private readonly CudaDevice _card;
    private readonly Device _device;
    private readonly Tensor _x, _weights, _routes;
    private readonly List<Tensor> _made = [];
    private Task? _work;
    private Tensor? _sum, _dWeights;
    private Tensor[]? _gradients;

    private HostExperts(ExpertSet experts, RouteKey key, int[] offsets, Tensor x, Tensor weights, Tensor routes)
    {
        (_experts, _key, _offsets, _device, _card) = (experts, key, offsets, x.Device, x.Gpu());
        using var mine = routes.Slice(0, offsets[^1]);
        (_x, _weights, _routes) = (Fetch(x), Fetch(weights), Fetch(mine));
    }

    /// <summary>Starts to bring the rows; null where the CPU has no share, or no rows in it.</summary>
    public static HostExperts? Begin(ExpertSet experts, RouteKey key, int[] offsets, Tensor x, Tensor weights, Tensor routes)
    {
        if (experts.OnHost is not { } share) return null;
        var last = experts.OnGpu!.Groups[share.Groups - 1];
        var mine = (experts with { Lora = share.Lora }).First(last.First + last.Count);
        return new HostExperts(mine, key, offsets[..(mine.Count + 1)], x, weights, routes);
    }

    /// <summary>Starts Σ of the share's routes.</summary>
    public void Forward()
    {
        var arrived = Mark();
        _sum = Pinned(DType.F32, _x.Shape);
        Start(arrived, rows =>
        {
            using var activations = new Activations(_experts, _x.Type, _offsets[^1]);
            rows.Forward(_x, _weights, activations.Saved, _sum, valueUnused: false);
        });
    }

    /// <summary>Starts the gradients of the share; gate and up are computed again.</summary>
    public void Backward(Tensor dy, bool wantsParameters)
    {
        var dyHere = Fetch(dy);
        var arrived = Mark();
        (_sum, _dWeights) = (Pinned(DType.F32, _x.Shape), Pinned(DType.F32, _weights.Shape));
        if (wantsParameters) _gradients = [.. _experts.Trained.Select(t => Pinned(DType.F32, t.Shape))];
        Start(arrived, rows =>
        {
            using var activations = new Activations(_experts, _x.Type, _offsets[^1]);
            rows.Forward(_x, _weights, activations.Saved, _sum, valueUnused: true);
            Memory.Clear(_dWeights);
            rows.Backward(dyHere, _x, _weights, activations.Saved, _sum, _dWeights, _gradients);
        });
    }

    /// <summary>Waits for the CPU; the sum F32 [T, D] on the card.</summary>
    public Tensor Value()
    {
        _work!.GetAwaiter().GetResult();
        return Send(_sum!);
    }

    /// <summary>Waits for the CPU; adds to dWeights [T, k], writes the share's part of the gradients, returns dx F32 [T, D], all on the card.</summary>
    public Tensor Gradients(Tensor dWeights, Tensor[]? gradients)
    {
        _work!.GetAwaiter().GetResult();
        using (var mine = Send(_dWeights!)) DeviceMath.AddInto(dWeights, mine);
        for (var i = 0; i < gradients?.Length; i++) _card.Copy(gradients[i].Pointer, _gradients![i].Pointer, _gradients[i].ByteLength);
        return Send(_sum!);
    }

    public void Dispose()
    {
        // Whatever went wrong on the card, nobody may free memory that the thread still uses.
        if (_work is not null) ((IAsyncResult)_work).AsyncWaitHandle.WaitOne();
        foreach (var tensor in _made) tensor.Dispose();
        foreach (var pair in _experts.Lora?.All ?? []) pair.Dispose(); // views
    }

    private void Start(CudaEvent arrived, Action<ExpertRows> compute)
    {
        var alike = Interop.Cpu.IsRowInvariant; // a thread's own
        _work = HelperThread.Run(() =>
        {
            using var invariant = alike ? Interop.Cpu.RowInvariant() : null;
            using (arrived) arrived.Synchronize();
            compute(new ExpertRows(_experts, _key, _offsets, _routes.ToInts()));
        });
    }

    private CudaEvent Mark()
    {
        var mark = new CudaEvent(_card);
        mark.Record(_card.Compute);
        return mark;
    }

    private Tensor Fetch(Tensor source)
    {
        var here = Pinned(source.Type, source.Shape);
        _card.Copy(here.Pointer, source.Pointer, source.ByteLength);
        return here;
    }

    private Tensor Send(Tensor here)
    {
        var there = Tensor.Empty(here.Type, _device, here.Shape);
        _card.Copy(there.Pointer, here.Pointer, here.ByteLength);
        return there;
    }

    private Tensor Pinned(DType type, ReadOnlySpan<long> shape)
    {
        var tensor = PinnedBuffer.Rent(_card, type, shape);
        _made.Add(tensor);
        return tensor;
    }

    /// <summary>Room for the activations of R rows.</summary>
    private sealed class Activations(ExpertSet experts, DType type, int rows) : IDisposable
    {
        public ExpertActivations Saved { get; } = new(Tensor.Empty(type, rows, experts.Inner), Tensor.Empty(type, rows, experts.Inner),
            experts.Lora is { } l ? [.. ((Tensor[])[l.GateA, l.UpA, l.DownA]).Select(a => Tensor.Empty(DType.F32, rows, a.Dim(1)))] : []);

        public void Dispose()
        {
            foreach (var tensor in (Tensor[])[Saved.Gate, Saved.Up, .. Saved.P]) tensor.Dispose();
        }
    }
}
