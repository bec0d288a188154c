using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>
/// The inputs of the stages, pushed by forward and popped by backward. On a card at most <see cref="DeviceBudget"/> bytes of them stay there; the older
/// ones move to pinned host memory while the next stages compute and come back before backward needs them, so that a window's length is bounded by host
/// memory. The newest is always on the device. Owns what is pushed.
/// </summary>
internal sealed class SavedInputs(long deviceBudget) : IDisposable
{
    /// <summary>How many inputs are under way to or from the host at the same time: enough to hide a copy behind a stage.</summary>
    private const int Ahead = 2;

    private readonly List<Entry> _entries = [];
    private long _onDevice;

    public long DeviceBudget => deviceBudget;

    /// <summary>
    /// How many of the newest of these inputs stay on their cards at most, those on their way to the host or back included; the others are in host memory
    /// when forward ends.
    /// </summary>
    public static int OnGpus(IReadOnlyList<long> bytes, long budget)
    {
        var (staying, sum) = (1, bytes[^1]);
        while (staying < bytes.Count && sum + bytes[^(staying + 1)] <= budget)
        {
            sum += bytes[^(staying + 1)];
            staying++;
        }
        return Math.Min(bytes.Count, staying + Ahead);
    }

    public int Count => _entries.Count;

    /// <summary>The newest, ready on its device.</summary>
    public Tensor Top => _entries[^1].Here ?? throw new InvalidOperationException("the newest input is on its way");

    public void Push(Tensor x)
    {
        _entries.Add(new Entry(x));
        if (x.Device.Kind != DeviceKind.Cuda) return;
        _onDevice += x.ByteLength;
        // Those that left long enough ago for their copies to be over give their memory back.
        for (var i = 0; i < _entries.Count - 1 - Ahead; i++) Leave(_entries[i]);
        // The oldest inputs are needed last. The newest is still read.
        for (var i = 0; i < _entries.Count - 1 && _onDevice > deviceBudget; i++)
        {
            var entry = _entries[i];
            if (entry.Here is null || entry.Host is not null) continue;
            entry.Send();
            _onDevice -= entry.Bytes;
        }
    }

    /// <summary>Frees the newest; the one below becomes the newest and is waited for by the compute stream.</summary>
    public void Pop()
    {
        var top = _entries[^1];
        if (top.Here is { } here && here.Device.Kind == DeviceKind.Cuda && top.Host is null) _onDevice -= top.Bytes;
        top.Dispose();
        _entries.RemoveAt(_entries.Count - 1);
        for (var i = _entries.Count - 1; i >= Math.Max(0, _entries.Count - 1 - Ahead); i--) _entries[i].Fetch();
        if (_entries.Count > 0) _entries[^1].Await();
    }

    public void Dispose()
    {
        foreach (var entry in _entries) entry.Dispose();
        _entries.Clear();
    }

    private static void Leave(Entry entry)
    {
        if (entry.Host is not null && entry.Here is not null && !entry.IsComing) entry.Leave();
    }

    private sealed class Entry(Tensor x) : IDisposable
    {
        private readonly Device _device = x.Device;
        private readonly DType _type = x.Type;
        private readonly long[] _shape = x.Shape.ToArray();
        private CudaEvent? _done;

        public Tensor? Here { get; private set; } = x;

        public PinnedBlock? Host { get; private set; }

        public bool IsComing { get; private set; }

        public long Bytes { get; } = x.ByteLength;

        private CudaDevice Gpu => CudaDevice.Get(_device.Index);

        /// <summary>Starts the copy to the host.</summary>
        public void Send()
        {
            Host = PinnedPool.Take(Gpu, Bytes, HostMemory.RequirePinned);
            using var written = new CudaEvent(Gpu);
            written.Record(Gpu.Compute);
            Gpu.Saves.Wait(written);
            Gpu.Save(Host.Pointer, Here!.Pointer, Bytes);
            _done = new CudaEvent(Gpu);
            _done.Record(Gpu.Saves);
        }

        /// <summary>Gives the device memory back, after the copy.</summary>
        public void Leave()
        {
            Gpu.Compute.Wait(_done!);
            Here!.Dispose();
            Here = null;
        }

        /// <summary>Starts the copy back.</summary>
        public void Fetch()
        {
            if (Host is null || IsComing) return;
            IsComing = true;
            if (Here is not null) return; // never left
            Here = Tensor.Empty(_type, _device, _shape);
            using var free = new CudaEvent(Gpu); // the block may still be read by work queued before
            free.Record(Gpu.Compute);
            Gpu.Saves.Wait(free);
            Gpu.Restore(Here.Pointer, Host.Pointer, Bytes);
            _done!.Record(Gpu.Saves);
        }

        public void Await()
        {
            if (_done is not null) Gpu.Compute.Wait(_done);
        }

        public void Dispose()
        {
            if (_done is not null && Here is not null) Gpu.Compute.Wait(_done); // a copy in flight must end before the memory is used again
            Here?.Dispose();
            Here = null;
            if (Host is not null) PinnedPool.Return(Host, _done!);
            (Host, _done) = (null, null);
        }
    }
}
