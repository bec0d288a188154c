using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Distributed;

/// <summary>
/// Ranks with a card each: gradients on it, and those that it keeps in host memory, are summed by NCCL on a stream of their own, beside the kernels; all else
/// goes by the collective underneath, which also brings NCCL's ranks together. Without NCCL that one carries everything.
/// </summary>
internal sealed unsafe class CardCollective(HostCollective host) : ICollective
{
    /// <summary>Elements that cross the bus at a time from host memory and back: 64 MB.</summary>
    private const long Staged = 1 << 24;

    private readonly List<(CudaEvent Start, CudaEvent End)> _busy = [];
    private readonly List<(CudaEvent Start, CudaEvent End)> _exposed = [];
    private CudaDevice? _card;
    private CudaStream? _stream;
    private nint _communicator;
    private Tensor? _stage;
    private long _bytes;
    private bool _isPrepared, _isPending, _touchesHost;

    public int Rank => host.Rank;

    public int World => host.World;

    public string Carrier => _communicator != 0 ? "NCCL" : host.Carrier;

    public IReadOnlyList<string> Hosts => host.Hosts;

    public bool IsTimed { get => host.IsTimed; set => host.IsTimed = value; }

    public string? Prepare(Device device)
    {
        if (_isPrepared || device.Kind != DeviceKind.Cuda) return null;
        _isPrepared = true;
        var missing = "";
        try
        {
            CudaLibraries.Load(CudaLibraries.Nccl);
        }
        catch (FileNotFoundException error)
        {
            missing = error.Message;
        }
        var all = this.AllGather(missing);
        if (Array.FindIndex(all, text => text.Length > 0) is >= 0 and var rank)
            return $"{this.Name(rank)}: {all[rank]}; until then gradients go through host memory by {host.Carrier}";
        _card = CudaDevice.Get(device.Index);
        _card.Use();
        Nccl.UniqueId id = default;
        if (Rank == 0) Nccl.Ok(Nccl.ncclGetUniqueId(&id));
        this.Broadcast(new ReadOnlySpan<byte>(id.Value, Nccl.UniqueId.Bytes)).CopyTo(new Span<byte>(id.Value, Nccl.UniqueId.Bytes));
        nint communicator;
        Nccl.Ok(Nccl.ncclCommInitRank(&communicator, World, id, Rank));
        int version;
        Nccl.Ok(Nccl.ncclGetVersion(&version));
        (_communicator, _stream) = (communicator, new CudaStream(_card));
        return $"gradients are summed by NCCL {version / 10000}.{version / 100 % 100}.{version % 100} between {World} cards";
    }

    public void StartSum(IReadOnlyList<Tensor> tensors)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        if (_communicator == 0)
        {
            host.StartSum(tensors);
            return;
        }
        bool IsHere(Tensor t) => t.Device.Kind == DeviceKind.Cuda && t.Device.Index == _card!.Index;
        Tensor[] cards = [.. tensors.Where(IsHere)], kept = [.. tensors.Where(t => t.Device.Kind == DeviceKind.Cpu)];
        host.StartSum([.. tensors.Where(t => !IsHere(t) && t.Device.Kind != DeviceKind.Cpu)]); // of other cards of this process
        if (cards.Length + kept.Length == 0) return;
        _card!.Use();
        using var written = new CudaEvent(_card);
        written.Record(_card.Compute);
        _stream!.Wait(written);
        var start = Mark();
        if (cards.Length > 0)
        {
            Nccl.Ok(Nccl.ncclGroupStart());
            foreach (var tensor in cards) Reduce(tensor.Pointer, tensor.Count);
            Nccl.Ok(Nccl.ncclGroupEnd());
        }
        foreach (var tensor in kept) ThroughCard(tensor);
        if (start is not null) _busy.Add((start, Mark()!));
        _bytes += cards.Concat(kept).Sum(t => t.ByteLength);
        _isPending = true;
    }

    public void Finish()
    {
        host.Finish();
        if (!_isPending) return;
        var last = IsTimed ? new CudaEvent(_card!, timing: true) : null;
        last?.Record(_card!.Compute);
        var end = new CudaEvent(_card!, timing: IsTimed);
        end.Record(_stream!);
        _card!.Compute.Wait(end);
        if (_touchesHost) _stream!.Synchronize();
        if (last is not null) _exposed.Add((last, end));
        else end.Dispose();
        (_isPending, _touchesHost) = (false, false);
    }

    public byte[][] AllGather(ReadOnlySpan<byte> mine) => host.AllGather(mine);

    public bool Abort(string line) => host.Abort(line);

    public SumFigures TakeFigures()
    {
        var figures = host.TakeFigures();
        TimeSpan Sum(List<(CudaEvent Start, CudaEvent End)> spans)
        {
            var sum = spans.Sum(s => Math.Max(0, s.End.Since(s.Start)));
            foreach (var (start, end) in spans)
            {
                start.Dispose();
                end.Dispose();
            }
            spans.Clear();
            return TimeSpan.FromMilliseconds(sum);
        }
        var (bytes, busy) = (_bytes, Sum(_busy));
        _bytes = 0;
        return new SumFigures(figures.Bytes + bytes, figures.Busy + busy, figures.Exposed + Sum(_exposed));
    }

    public void Dispose()
    {
        if (_communicator != 0)
        {
            _card!.Use();
            _stream!.Synchronize();
            _ = Nccl.ncclCommDestroy(_communicator);
            _communicator = 0;
            _stage?.Dispose();
            _stream.Dispose();
        }
        host.Dispose();
    }

    private void Reduce(nint pointer, long count) =>
        Nccl.Ok(Nccl.ncclAllReduce(pointer, pointer, (nuint)count, Nccl.Float, Nccl.Sum, _communicator, _stream!.Pointer));

    /// <summary>Host memory piece by piece to the card, summed, and back, all in the order of one stream.</summary>
    private void ThroughCard(Tensor tensor)
    {
        _stage ??= Tensor.Empty(DType.F32, Device.Cuda(_card!.Index), Staged);
        for (long at = 0; at < tensor.Count; at += Staged)
        {
            var (count, there) = (Math.Min(Staged, tensor.Count - at), tensor.Pointer + (nint)(at * sizeof(float)));
            Driver.cuMemcpyHtoDAsync_v2(_stage.Pointer, (void*)there, (nuint)(count * sizeof(float)), _stream!.Pointer).Ok();
            Reduce(_stage.Pointer, count);
            Driver.cuMemcpyDtoHAsync_v2((void*)there, _stage.Pointer, (nuint)(count * sizeof(float)), _stream.Pointer).Ok();
        }
        _touchesHost = true;
    }

    private CudaEvent? Mark()
    {
        if (!IsTimed) return null;
        var mark = new CudaEvent(_card!, timing: true);
        mark.Record(_stream!);
        return mark;
    }
}
