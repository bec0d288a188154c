using System.Diagnostics;

using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Bench;

/// <summary>What `kt bench disk` measures.</summary>
/// <param name="Shape">A name of <see cref="ModelShapes"/>.</param>
/// <param name="Layers">The first so many; null: all.</param>
/// <param name="Format">Of the experts.</param>
/// <param name="Device">The card that they come to.</param>
/// <param name="Folder">On the disk.</param>
/// <param name="SlotBytes">Device memory of the slots.</param>
/// <param name="Passes">Forward and backward as a step makes them, without its arithmetic.</param>
public sealed record DiskBenchmarkSettings(string Shape, int? Layers, StorageFormat Format, Device Device, string Folder, long SlotBytes, int Passes);

/// <summary>What it found.</summary>
/// <param name="ExpertBytes">Of all experts.</param>
/// <param name="ReadBytes">Of all passes.</param>
/// <param name="DiskGbPerSecond">The disk read straight on, in the same run.</param>
public sealed record DiskBenchmarkResult(DiskBenchmarkSettings Settings, string Device, long ExpertBytes, long ReadBytes, double Seconds,
    double DiskGbPerSecond)
{
    public double ReadGbPerSecond => ReadBytes / Seconds / 1e9;

    public double Share => ReadGbPerSecond / DiskGbPerSecond;
}

/// <summary>Experts from the disk to a card, in the order of a training step and with nothing else to do: what a step can reach at most.</summary>
public static class DiskBenchmark
{
    public static DiskBenchmarkResult Run(DiskBenchmarkSettings settings, Action<string> note, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(settings);
        ArgumentNullException.ThrowIfNull(note);
        if (settings.Device.Kind != DeviceKind.Cuda) throw new ArgumentException("experts come from the disk to a card: --device must be cuda:N");
        var card = CudaDevice.Get(settings.Device.Index);
        using var checkpoint = new Checkpoint(DiskShards.Make(settings.Shape, settings.Layers, settings.Format, settings.Folder, note, cancel));
        var sequential = DiskShards.SequentialGbPerSecond(checkpoint, note);
        var config = ConfigFile.FromJson(settings.Shape, ModelShapes.Config(settings.Shape, settings.Layers).ToJsonString());
        List<ExpertBank> banks = [];
        using var executors = new ExpertExecutors();
        try
        {
            using (var shape = ModelFolder.Shape(config))
                foreach (var b in shape.All().OfType<ExpertBank>())
                    banks.Add(new ExpertBank(checkpoint, b.Names, DType.BF16, b.Count, b.Width, b.Inner) { TopK = b.TopK });
            var (group, slots) = ExpertExecutors.SlotsOf([.. banks.Select(b => b.Layout)], settings.SlotBytes, split: false, cards: 1);
            executors.Stream(banks, settings.Device, group, slots, onDisk: _ => true);
            BankVisit[] pass = [.. banks.Select(b => new BankVisit(b, false, int.MaxValue)), .. Enumerable.Reverse(banks)
                .Select(b => new BankVisit(b, true, int.MaxValue))];
            var watch = Stopwatch.StartNew();
            for (var p = 0; p < settings.Passes; p++)
            {
                ExpertStreams.Plan(pass, cancel);
                foreach (var visit in pass)
                    foreach (var g in visit.Backward ? visit.Groups.Reverse() : visit.Groups)
                    {
                        visit.Bank.Stream!.Open(g);
                        visit.Bank.Stream.Close(g);
                    }
                note($"pass {p + 1}: {executors.ReadBytes / 1e9:F1} GB read after {watch.Elapsed.TotalSeconds:F1} s");
            }
            card.Compute.Synchronize();
            var seconds = watch.Elapsed.TotalSeconds;
            sequential = Math.Max(sequential, DiskShards.SequentialGbPerSecond(checkpoint, note)); // what lies behind the disk may have warmed up
            return new DiskBenchmarkResult(settings, card.ToString(), banks.Sum(b => b.StoredBytes), executors.ReadBytes, seconds, sequential);
        }
        finally
        {
            foreach (var bank in banks) bank.Dispose();
        }
    }
}
