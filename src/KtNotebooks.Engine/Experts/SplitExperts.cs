using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The CPU computes the first groups of the experts where they lie while the others cross the bus to a GPU, as many as let both end together: few or none of
/// a large window, all of a token that is generated. Pairs that lie on the GPU, where the CPU does not reach them, leave it nothing.
/// </summary>
internal sealed class SplitExperts(StreamedExperts streamed, ExpertCosts costs) : IExpertExecutor
{
    /// <summary>What crosses the bus.</summary>
    public StreamedExperts Streamed => streamed;

    public Device? Device => streamed.Device;

    public ExpertStream Stream => streamed.Stream;

    /// <summary>The CPU alone takes rows to itself.</summary>
    public Device? DeviceOf(ExpertVisit visit) => CpuGroups(visit) == streamed.Groups.Count ? Tensors.Device.Cpu : Device;

    public IEnumerable<GroupVisit> Schedule(ExpertVisit visit) => streamed.Schedule(visit).Skip(CpuGroups(visit));

    public long ScratchBytes(ExpertCall call, bool backward) => streamed.ScratchBytes(call, backward);

    public ExpertState NewState(ExpertCall call) => IsOnCpu(call) ? CpuExperts.Instance.NewState(call) : streamed.NewState(call);

    public void Forward(ExpertCall call, ExpertState state, Tensor y)
    {
        if (IsOnCpu(call)) CpuExperts.Instance.Forward(call, state, y);
        else new GpuRows(call, streamed, (GpuState)state).Forward(y, CpuGroups(call.Visit));
    }

    public void Backward(ExpertCall call, ExpertState state, Tensor dy, ExpertGradients to)
    {
        if (IsOnCpu(call)) CpuExperts.Instance.Backward(call, state, dy, to);
        else new GpuRows(call, streamed, (GpuState)state).Backward(dy, to, CpuGroups(call.Visit));
    }

    /// <summary>For saying it: up to so many tokens a forward pass the CPU computes all groups, and up to so many it still takes some.</summary>
    public (int Alone, int Share) CpuUpTo(int topK)
    {
        var (alone, share) = (0, 0);
        for (var tokens = 1; tokens <= 1 << 20; tokens *= 2)
        {
            var groups = CpuGroups(new ExpertVisit((long)tokens * Math.Max(1, topK), false, null));
            if (groups == streamed.Groups.Count) alone = tokens;
            if (groups > 0) share = tokens;
        }
        return (alone, share);
    }

    public void Dispose() => streamed.Dispose();

    private static bool IsOnCpu(ExpertCall call) => call.X.Device.Kind == DeviceKind.Cpu;

    private int CpuGroups(ExpertVisit visit) => visit.Lora is null || visit.Lora.Device.Kind == DeviceKind.Cpu
        ? costs.HostGroups(streamed.Groups, streamed.Slab.Layout.ExpertBytes, streamed.Slab.Layout.Elements, visit.Routes, visit.Backward) : 0;
}

/// <summary>
/// The CPU's share of experts whose rows are on a GPU: x [T, D] and the routes come to pinned host memory, a helper thread computes while the GPU works on
/// the other groups, and what it found goes back as one sum over the share's routes. T × (D·(2 + 4) + k·8) bytes cross the bus, whatever the number of
/// experts.
/// </summary>
internal sealed class CpuShare : IDisposable
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

    /// <summary>Starts to bring the rows.</summary>
    /// <param name="call">Rows on a GPU.</param>
    /// <param name="state">In which they are sorted.</param>
    /// <param name="last">The share ends with this group.</param>
    public CpuShare(ExpertCall call, GpuState state, ExpertGroup last)
    {
        _experts = (call.Experts with { Lora = call.KeptLora }).First(last.First + last.Count);
        (_key, _offsets, _device, _card) = (call.Key, state.HostOffsets![..(_experts.Count + 1)], call.X.Device, call.X.Gpu());
        using var mine = state.Routes.Slice(0, _offsets[^1]);
        (_x, _weights, _routes) = (Fetch(call.X), Fetch(call.Weights), Fetch(mine));
    }

    /// <summary>Starts Σ of the share's routes.</summary>
    public void Forward()
    {
        var arrived = Mark();
        _sum = Pinned(DType.F32, _x.Shape);
        Start(arrived, rows =>
        {
            using var activations = ExpertActivations.Of(_experts, _x, _offsets[^1]);
            rows.Forward(_x, _weights, activations, _sum, valueUnused: false);
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
            using var activations = ExpertActivations.Of(_experts, _x, _offsets[^1]);
            rows.Forward(_x, _weights, activations, _sum, valueUnused: true);
            Memory.Clear(_dWeights);
            rows.Backward(dyHere, _x, _weights, activations, _sum, _dWeights, _gradients);
        });
    }

    /// <summary>Waits for the CPU; the sum F32 [T, D] on the card.</summary>
    public Tensor Value()
    {
        _work!.GetAwaiter().GetResult();
        return Send(_sum!);
    }

    /// <summary>Waits for the CPU; adds to dWeights [T, k], writes the share's part of the gradients, returns dx F32 [T, D], all on the GPU.</summary>
    public Tensor Gradients(ExpertGradients to)
    {
        _work!.GetAwaiter().GetResult();
        using (var mine = Send(_dWeights!)) DeviceMath.AddInto(to.Weights, mine);
        for (var i = 0; i < to.Trained?.Length; i++) _card.Copy(to.Trained[i].Pointer, _gradients![i].Pointer, _gradients[i].ByteLength);
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
}
