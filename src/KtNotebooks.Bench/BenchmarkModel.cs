using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Bench;

/// <summary>A model of true shape with made-up weights, its experts at work as a benchmark wants them: the same classes that hold a checkpoint.</summary>
internal sealed class BenchmarkModel : IDisposable
{
    private readonly ExpertExecutors _executors = new();

    /// <param name="shape">A name of <see cref="ModelShapes"/>.</param>
    /// <param name="layers">The first so many; null: all.</param>
    /// <param name="executor">Cpu leaves the experts in host memory.</param>
    /// <param name="slotBytes">Of each card, for experts on their way.</param>
    /// <param name="deviceOf">The device of a weight or module, by its name and the number of layers.</param>
    /// <param name="streams">Told every card that experts are brought to, with the stream that brings them.</param>
    /// <param name="note">Told what was measured on the way.</param>
    /// <param name="denseOnHost">The matrices of layers wait in host memory too.</param>
    /// <param name="trained">The experts' own matrices are trained: stacked in BF16, on their card or streamed.</param>
    /// <param name="disk">Whose shards the experts stay in; null: they are made up.</param>
    public BenchmarkModel(string shape, int? layers, ExecutorKind executor, StorageFormat format, long slotBytes, Func<string, int, Device> deviceOf,
        Action<Device, ExpertStream> streams, Action<string> note, Checkpoint? disk = null, bool denseOnHost = false, bool trained = false)
    {
        var config = ConfigFile.FromJson(shape, ModelShapes.Config(shape, layers).ToJsonString());
        int count;
        using (var empty = ModelFolder.Shape(config)) count = empty.Info.Layers;
        Device DeviceOf(string name) => deviceOf(name, count);
        var made = new PatternWeights(DeviceOf, format)
        {
            Tiles = executor == ExecutorKind.Cpu,
            DenseOnHost = denseOnHost,
            Trained = !trained ? null : executor == ExecutorKind.Resident
                ? (name, shape) => Tensor.Empty(DType.BF16, DeviceOf(name), shape)
                : (name, shape) => new Tensor(PinnedBuffer.Allocate(DeviceOf(name), shape.Aggregate(2L, (n, dim) => n * dim)), 0, DType.BF16, shape),
            Unmade = !trained && executor is ExecutorKind.Streamed or ExecutorKind.Split && DeviceOf("model.layers.0").Kind == DeviceKind.Cuda,
        };
        Model = ModelFolder.Build(config, disk is null ? made : new DiskWeights(disk, made), DType.BF16);
        var byCard = Model.All().OfType<ExpertBank>().GroupBy(b => DeviceOf(b.Path)).Where(b => b.Key.Kind == DeviceKind.Cuda).ToArray();
        foreach (var banks in byCard)
        {
            var (group, slots) = ExpertExecutors.SlotsOf([.. banks.Select(b => b.Layout)], slotBytes, executor == ExecutorKind.Split,
                byCard.Length);
            if (trained) _executors.Train([.. banks], banks.Key, group, executor == ExecutorKind.Resident ? 0 : slots);
            else if (executor == ExecutorKind.Resident) ExpertExecutors.Keep([.. banks], banks.Key, DType.BF16);
            else if (executor == ExecutorKind.Streamed) _executors.Stream([.. banks], banks.Key, group, slots, onDisk: _ => disk is not null);
            else if (executor == ExecutorKind.Split) note($"split, measured: {_executors.Split([.. banks], banks.Key, group, slots)}");
            if (executor is ExecutorKind.Streamed or ExecutorKind.Split) streams(banks.Key, _executors.Streams[^1]);
        }
        if (executor == ExecutorKind.Cpu) ExpertExecutors.Gather(Model.All().OfType<ExpertBank>());
        Model.Visits = StageVisits.Of(Model.Stages);
        foreach (var (card, way) in Model.Visits?.Ways ?? new Dictionary<Device, ExpertStream>()) streams(card, way);
        HostPages.Trim(); // what was made in host memory for a card
    }

    public CausalLm Model { get; }

    /// <summary>Bytes of experts that were read from a disk so far.</summary>
    public long ReadBytes => _executors.ReadBytes;

    /// <summary>Elements of the base, whatever its storage.</summary>
    public long Parameters => Model.All().Sum(m => m is ExpertBank b ? 3L * b.Count * b.Width * b.Inner : m.Weights.Sum(w => w.Tensor.Count));

    public void Dispose()
    {
        Model.Dispose();
        _executors.Dispose();
    }
}
