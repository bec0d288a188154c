using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net.Sockets;

using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Distributed;

/// <summary>
/// A collective that carries host memory. One thread does everything that goes over the wire, in the order in which it was asked: sums run while the caller
/// computes on. Tensors are packed end to end into one block, which is summed piece by piece; those of a card come to the host and go back.
/// </summary>
public abstract class HostCollective : ICollective
{
    /// <summary>Elements of a block: 16 MB, so that packing one and sending another hardly wait for each other.</summary>
    private const int Block = 1 << 22;

    private readonly BlockingCollection<Action> _work = [];
    private readonly List<Task> _sums = [];
    private float[] _block = [];
    private long _bytes, _busyTicks, _exposedTicks;
    private int _awaited;

    protected HostCollective()
    {
        new Thread(WorkThrough) { IsBackground = true, Name = "kt ranks" }.Start();
    }

    public abstract int Rank { get; }

    public abstract int World { get; }

    public abstract string Carrier { get; }

    public IReadOnlyList<string> Hosts { get; private set; } = [];

    public bool IsTimed { get; set; }

    public string? Prepare(Device device) => null;

    /// <summary>Hears that others have gone, and tells them that this rank does; null: nobody watches.</summary>
    internal RankWatch? Watch { get; set; }

    /// <summary>The caller waits for the thread: it need not be polite.</summary>
    protected bool IsAwaited => Volatile.Read(ref _awaited) > 0;

    /// <summary>The hosts of all ranks are known.</summary>
    internal void Meet(IEnumerable<string> hosts) => Hosts = [.. hosts];

    public void StartSum(IReadOnlyList<Tensor> tensors)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        if (tensors.Count > 0) _sums.Add(Post(() => SumAll(tensors)));
    }

    public void Finish()
    {
        var started = Stopwatch.GetTimestamp();
        foreach (var sum in _sums) Await(sum);
        _sums.Clear();
        _exposedTicks += Stopwatch.GetTimestamp() - started;
    }

    public byte[][] AllGather(ReadOnlySpan<byte> mine)
    {
        var (copy, all) = (mine.ToArray(), (byte[][])[]);
        Await(Post(() => all = Gather(copy)));
        return all;
    }

    public bool Abort(string line) => Watch?.Fail(line) ?? false;

    public SumFigures TakeFigures()
    {
        var figures = new SumFigures(_bytes, Stopwatch.GetElapsedTime(0, _busyTicks), Stopwatch.GetElapsedTime(0, _exposedTicks));
        (_bytes, _busyTicks, _exposedTicks) = (0, 0, 0); // nothing is under way between steps
        return figures;
    }

    public void Dispose()
    {
        if (_work.IsAddingCompleted) return;
        Watch?.Leave();
        if (Watch is not { HasFailed: true }) Await(Post(Close));
        _work.CompleteAdding();
        GC.SuppressFinalize(this);
    }

    /// <summary>What every rank gives, on the thread of this object.</summary>
    protected abstract byte[][] Gather(byte[] mine);

    /// <summary>Replaces values by their sums over the ranks, added in the order of the ranks; on the thread of this object.</summary>
    protected abstract void Sum(Span<float> values);

    /// <summary>The last call.</summary>
    protected abstract void Close();

    private void WorkThrough()
    {
        foreach (var work in _work.GetConsumingEnumerable()) work();
    }

    /// <summary>There will be no work.</summary>
    protected void StopThread() => _work.CompleteAdding();

    /// <summary>Runs on the thread of this object.</summary>
    protected Task Post(Action work)
    {
        var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        _work.Add(() =>
        {
            try
            {
                work();
                done.SetResult();
            }
#pragma warning disable CA1031 // Whoever waits gets it.
            catch (Exception error)
#pragma warning restore CA1031
            {
                done.SetException(error);
            }
        });
        return done.Task;
    }

    /// <summary>Waits for such work. Where it failed because another rank has gone, the watch has a moment to name that rank, and ends this process.</summary>
    protected void Await(Task task)
    {
        ArgumentNullException.ThrowIfNull(task);
        Interlocked.Increment(ref _awaited);
        try
        {
            task.GetAwaiter().GetResult();
        }
        catch (Exception error) when (error is IOException or SocketException or KtNativeException)
        {
            Watch?.AwaitVerdict();
            throw;
        }
        finally
        {
            Interlocked.Decrement(ref _awaited);
        }
    }

    private void SumAll(IReadOnlyList<Tensor> tensors)
    {
        var started = Stopwatch.GetTimestamp();
        List<(Tensor Host, Tensor? Card)> all = [.. tensors.Select(t => t.Device.Kind == DeviceKind.Cuda ? (t.ToHost(), t) : (t, (Tensor?)null))];
        var total = all.Sum(t => t.Host.Count);
        if (_block.Length < Math.Min(total, Block)) _block = new float[Math.Min(total, Block)];
        var (from, to) = (new Place(), new Place());
        for (long at = 0; at < total; at += Block)
        {
            var block = _block.AsSpan(0, (int)Math.Min(Block, total - at));
            Move(all, ref from, block, pack: true);
            Sum(block);
            Move(all, ref to, block, pack: false);
        }
        foreach (var (host, card) in all)
        {
            if (card is null) continue;
            Memory.Copy(host, card);
            host.Dispose();
        }
        _bytes += total * sizeof(float);
        _busyTicks += Stopwatch.GetTimestamp() - started;
    }

    /// <summary>Copies the next elements of tensors end to end into a block, or back.</summary>
    private static unsafe void Move(List<(Tensor Host, Tensor? Card)> all, ref Place place, Span<float> block, bool pack)
    {
        while (block.Length > 0)
        {
            var tensor = all[place.Tensor].Host;
            var count = (int)Math.Min(tensor.Count - place.Element, block.Length);
            var elements = new Span<float>((float*)tensor.Pointer + place.Element, count);
            if (pack) elements.CopyTo(block);
            else block[..count].CopyTo(elements);
            block = block[count..];
            place.Element += count;
            if (place.Element == tensor.Count) place = new Place { Tensor = place.Tensor + 1 };
        }
    }

    private record struct Place(int Tensor, long Element);
}
