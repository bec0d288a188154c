using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Experts;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Models;

/// <summary>
/// What loading reports: every byte once, and those of experts that a card computes when they are in its reach, not when their file is mapped.
/// </summary>
public sealed class LoadProgressTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Model => Path.Combine(_folder.Path, "model");

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Every_byte_is_reported_once(bool inMemory)
    {
        Tiny.Save(Model);
        var last = Load(null, inMemory);
        Assert.Equal((Stored(), Stored(), "model"), (last.Done, last.Total, last.What));
    }

    [Theory]
    [InlineData(ExecutorKind.Streamed)]
    [InlineData(ExecutorKind.Resident)]
    [Trait("card", "cuda")]
    public void Experts_for_a_card_count_when_they_are_there(ExecutorKind experts)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        Tiny.Save(Model);
        var placement = SlotsInBytes.Plan(Model, new PlacementSettings { Device = "cuda:0", Experts = experts });
        var last = Load(placement, false);
        Assert.Equal((Stored(), Stored()), (last.Done, last.Total));
        // Told by the meter itself: taken, and yet not counted.
        var told = 0L;
        var meter = new LoadMeter(Model, 300, placement, p => told = p.Done);
        meter.Taken("model.layers.1.mlp.experts.0.up_proj.weight", 100);
        meter.Taken("model.norm.weight", 200);
        Assert.Equal(200, told);
    }

    private WorkProgress Load(ResidencyPlan? placement, bool inMemory)
    {
        var last = default(WorkProgress);
        using var model = ModelFolder.Load(Model, DType.BF16, placement, new LoadSettings(InMemory: inMemory, Report: p => last = p));
        return last;
    }

    private long Stored()
    {
        using var checkpoint = new Checkpoint(Model);
        return checkpoint.Bytes;
    }
}
