using System.Diagnostics;

using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>What `kt bench load` measures.</summary>
/// <param name="Shape">A name of <see cref="ModelShapes"/>.</param>
/// <param name="Layers">The first so many; null: all.</param>
/// <param name="Format">Of the experts.</param>
/// <param name="Device">The card that they are to be streamed to.</param>
/// <param name="Checkpoint">A folder to load instead of made-up weights; the shape and the format are its own then.</param>
/// <param name="ByDriver">The driver allocates pinned memory, for comparison.</param>
public sealed record LoadingBenchmarkSettings(string Shape, int? Layers, StorageFormat Format, Device Device, string? Checkpoint = null, bool ByDriver = false);

/// <summary>What it found. The single rates are of one stretch of memory of a bank's size.</summary>
/// <param name="ExpertBytes">Of all experts, as they lie in pinned memory.</param>
/// <param name="OtherBytes">Of all else that is loaded into host memory.</param>
/// <param name="Seconds">From nothing to a model that is ready for a step.</param>
/// <param name="HostBytes">By which the memory of the process grew.</param>
/// <param name="PeakHostBytes">The most that it had grown meanwhile.</param>
/// <param name="TouchGbPerSecond">Pages that the system gives and clears, all threads.</param>
/// <param name="LockGbPerSecond">Locking such pages.</param>
/// <param name="DriverGbPerSecond">The driver allocating locked memory itself.</param>
public sealed record LoadingBenchmarkResult(LoadingBenchmarkSettings Settings, string Device, long ExpertBytes, long OtherBytes, double Seconds,
    long HostBytes, long PeakHostBytes, double TouchGbPerSecond, double LockGbPerSecond, double DriverGbPerSecond)
{
    public double GbPerSecond => ExpertBytes / Seconds / 1e9;

    /// <summary>Memory that the process took against the weights' bytes.</summary>
    public double HostShare => HostBytes / (double)(ExpertBytes + OtherBytes);
}

/// <summary>How long it takes until a model whose experts cross the bus stands in pinned memory, and how much memory that takes.</summary>
public static class LoadingBenchmark
{
    public static LoadingBenchmarkResult Run(LoadingBenchmarkSettings settings, Action<string> note)
    {
        ArgumentNullException.ThrowIfNull(settings);
        ArgumentNullException.ThrowIfNull(note);
        if (settings.Device.Kind != DeviceKind.Cuda) throw new ArgumentException("loading is measured into pinned memory: --device must be cuda:N");
        var card = CudaDevice.Get(settings.Device.Index);
        using (Tensor.Zeros(DType.F32, settings.Device, 1)) card.Compute.Synchronize(); // what a card takes of the host at first use
        PinnedMemory.AllowRegistering = !settings.ByDriver;
        try
        {
            using var memory = new HostPeak();
            var watch = Stopwatch.StartNew();
            using var loaded = Load(settings, note);
            var seconds = watch.Elapsed.TotalSeconds;
            card.Compute.Synchronize();
            var (host, peak) = memory.Grown();
            ExpertBank[] banks = [.. loaded.Model.All().OfType<ExpertBank>()];
            var experts = banks.Sum(b => b.StoredBytes);
            var other = loaded.Model.All().Where(m => m is not ExpertBank).SelectMany(m => m.Weights)
                .Sum(w => w.Tensor.Device.Kind == DeviceKind.Cpu && !w.Tensor.IsMapped ? w.Tensor.ByteLength : 0);
            note($"loaded after {seconds:F1} s");
            var (touch, locking, driver) = Rates(card, banks.Max(b => b.StoredBytes));
            return new LoadingBenchmarkResult(settings, card.ToString(), experts, other, seconds, host, peak, touch, locking, driver);
        }
        finally
        {
            PinnedMemory.AllowRegistering = true;
        }
    }

    private static Loaded Load(LoadingBenchmarkSettings s, Action<string> note)
    {
        if (s.Checkpoint is null)
        {
            var made = new BenchmarkModel(s.Shape, s.Layers, ExecutorKind.Streamed, s.Format, SlotBytes, (_, _) => s.Device, (_, _) => { }, note);
            return new Loaded(made.Model, made);
        }
        if (s.Layers is not null) throw new ArgumentException("--layers is for made-up weights; a checkpoint is loaded whole");
        var plan = ModelFolder.Plan(s.Checkpoint, new PlacementSettings { Device = s.Device.ToString(), Experts = ExecutorKind.Streamed });
        var model = ModelFolder.Load(s.Checkpoint, plan: plan);
        return new Loaded(model, model);
    }

    private const long SlotBytes = 1100L << 20;

    private static (double Touch, double Lock, double Driver) Rates(CudaDevice card, long bytes)
    {
        bytes = Math.Min(bytes, 4L << 30);
        double Rate(TimeSpan from, TimeSpan to) => bytes / (to - from).TotalSeconds / 1e9;
        var watch = Stopwatch.StartNew();
        TimeSpan touched = default;
        using (new PinnedMemory(card, bytes, address =>
        {
            HostPages.Touch(address, bytes, Environment.ProcessorCount);
            touched = watch.Elapsed;
        })) watch.Stop();
        var locked = watch.Elapsed;
        PinnedMemory.AllowRegistering = false;
        watch.Restart();
        using (new PinnedMemory(card, bytes)) watch.Stop();
        return (Rate(default, touched), Rate(touched, locked), Rate(default, watch.Elapsed));
    }

    private sealed record Loaded(CausalLm Model, IDisposable Owner) : IDisposable
    {
        public void Dispose() => Owner.Dispose();
    }
}
