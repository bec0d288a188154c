using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>The most memory of its own that the process has between here and the end, asked of the system a hundred times a second.</summary>
internal sealed class HostPeak : IDisposable
{
    private readonly long _before = HostMemory.OfThisProcess;
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
        var now = HostMemory.OfThisProcess - _before;
        return (now, Math.Max(now, Interlocked.Read(ref _peak) - _before));
    }

    public void Dispose()
    {
        _stop = true;
        _sampler.Join();
    }

    private void Sample()
    {
        while (!_stop)
        {
            var own = HostMemory.OfThisProcess;
            if (own > _peak) Interlocked.Exchange(ref _peak, own);
            Thread.Sleep(10);
        }
    }
}
