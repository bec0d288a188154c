using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>
/// The most memory that the process has between here and the end, its own and mapped pages of files, asked of the system a hundred times a second.
/// </summary>
internal sealed class HostPeak : IDisposable
{
    private readonly long _before = Taken;
    private readonly Thread _sampler;
    private volatile bool _stop;
    private long _peak;

    public HostPeak()
    {
        _peak = _before;
        _sampler = new Thread(Sample) { IsBackground = true, Name = "host memory sampler" };
        _sampler.Start();
    }

    /// <summary>How much more there is now than at first, and how much more there was at most.</summary>
    public (long Now, long Peak) Grown()
    {
        var now = Taken - _before;
        return (now, Math.Max(now, Interlocked.Read(ref _peak) - _before));
    }

    public void Dispose()
    {
        _stop = true;
        _sampler.Join();
    }

    private static long Taken => HostMemory.Own + HostMemory.OfFiles;

    private void Sample()
    {
        while (!_stop)
        {
            var taken = Taken;
            if (taken > _peak) Interlocked.Exchange(ref _peak, taken);
            Thread.Sleep(10);
        }
    }
}
