using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>Forward passes that wait for backward: no bit changes, whatever is kept, given up or may not be kept; and nothing stays behind.</summary>
[Collection("cpu variant")]
public sealed class KeptPassesTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(DType.F32, 16, long.MaxValue)]
    [InlineData(DType.BF16, 16, long.MaxValue)]
    [InlineData(DType.BF16, 64, long.MaxValue)]
    [InlineData(DType.BF16, 16, 40_000)]
    public void On_the_CPU_no_bit_changes(DType type, int chunk, long bytes)
    {
        using var model = Tiny.WithAdapter(type, dropout: 0.2);
        var again = Gradients(model, new LayerMajorStep(model, chunk, 8));
        var before = Tiny.Alive();
        var step = new LayerMajorStep(model, chunk, 8) { KeptBytes = _ => bytes };
        var kept = Gradients(model, step);
        Assert.Equal(before, Tiny.Alive());
        Same(again, kept);
        var passes = model.Stages.Count * ((57 + chunk - 1) / chunk);
        if (bytes == long.MaxValue) Assert.InRange(step.KeptPassesFound, model.Stages.Count, passes + model.Stages.Count);
        else Assert.InRange(step.KeptPassesFound, 1, passes - 1);
    }

    [Theory]
    [Trait("card", "cuda")]
    [InlineData(ExecutorKind.Resident, 6)]
    [InlineData(ExecutorKind.Streamed, 6)]
    [InlineData(ExecutorKind.Split, 4)] // its experts are shared out anew, in two of three layers
    public void On_a_card_no_bit_changes(ExecutorKind experts, int passes)
    {
        using var model = OnCard(experts);
        var again = Gradients(model, new LayerMajorStep(model));
        var step = new LayerMajorStep(model) { KeptBytes = _ => long.MaxValue };
        Same(again, Gradients(model, step));
        Assert.Equal(passes, step.KeptPassesFound);
    }

    /// <summary>A card that is full takes back what can be computed again, before it refuses.</summary>
    [Fact]
    [Trait("card", "cuda")]
    public void A_full_card_gives_passes_up()
    {
        using var model = OnCard(ExecutorKind.Resident);
        var pool = CudaDevice.Get(0).Pool;
        var again = Gradients(model, new LayerMajorStep(model, 16, 8));
        Tiny.Alive(); // what other tests left goes now
        var before = pool.UsedBytes;
        var step = new LayerMajorStep(model, 16, 8) { KeptBytes = _ => long.MaxValue };
        long Peak(LayerMajorStep of)
        {
            pool.ResetPeakUsed();
            Same(again, Gradients(model, of));
            return pool.PeakUsedBytes - before;
        }
        var room = (Peak(new LayerMajorStep(model, 16, 8)) + Peak(step)) / 2;
        var all = step.KeptPassesFound;
        const int Piece = 16 << 10; // less than all passes together, or one more of them makes room for all
        pool.Trim();
        pool.Limit = Math.Max(pool.HeldBytes, pool.UsedBytes + room + Piece); // what Trim leaves may be less than a step needs
        List<Tensor> ballast = [];
        bool Fits(LayerMajorStep of)
        {
            try
            {
                Same(again, Gradients(model, of));
                return true;
            }
            catch (InsufficientMemoryException)
            {
                Tiny.DropGradients(model);
                return false;
            }
        }
        try
        {
            while (pool.Limit - pool.UsedBytes > room + Piece) ballast.Add(Tensor.Empty(DType.U8, Device.Cuda(), Piece));
            // Stretches between what other tests hold count as room and may be too small for anything: more is given until the step fits.
            for (var given = 0; !Fits(new LayerMajorStep(model, 16, 8)) || !Fits(step) || step.KeptPassesFound == 0; given++)
            {
                Assert.True(given < 128, "a step that keeps nothing, or one that may keep, never fits");
                if (ballast is [.., var last] && ballast.Remove(last)) last.Dispose();
                else pool.Limit += Piece;
            }
            Assert.InRange(step.KeptPassesFound, 1, all - 1);
            Assert.Null(pool.GiveUp);
            Assert.Equal(before + ballast.Sum(b => b.ByteLength), pool.UsedBytes);
        }
        finally
        {
            pool.Limit = long.MaxValue;
            foreach (var piece in ballast) piece.Dispose();
        }
    }

    [Fact]
    public void A_tape_that_waits_leaves_the_outer_one_at_work()
    {
        using var x = Tensor.From([1f, 2f, 3f], 1, 3);
        x.RequiresGrad = true;
        using var outer = Tape.Record();
        var tape = Tape.Record();
        var y = KtNotebooks.Ops.Add.Apply(x, x);
        tape.Suspend();
        Assert.InRange(tape.BytesOn(Device.Cpu), 3 * sizeof(float), 1024);
        KtNotebooks.Ops.Add.Apply(x, x);
        Assert.Single(outer.Frames);
        using var d = Tensor.From([1f, 1f, 1f], 1, 3);
        tape.Backward(y, d);
        Assert.Equal([2f, 2f, 2f], x.Grad!.ToFloats());
        tape.Dispose();
        KtNotebooks.Ops.Add.Apply(x, x);
        Assert.Equal(2, outer.Frames.Count);
    }

    private CausalLm OnCard(ExecutorKind experts)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var path = Tiny.Save(Path.Combine(_folder.Path, "model"));
        var model = ModelFolder.Load(path, DType.BF16, ModelFolder.Plan(path, new PlacementSettings { Device = "cuda:0", Experts = experts }, DType.BF16));
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Dropout: 0.2, Experts: true), seed: 4);
        return model;
    }

    private static Dictionary<string, float[]> Gradients(CausalLm model, LayerMajorStep step)
    {
        step.Run(Tiny.Batch(1, [5, 11, 1, 30, 8, 2]), 9, TestContext.Current.CancellationToken);
        return Tiny.TakeGradients(model);
    }

    private static void Same(Dictionary<string, float[]> expected, Dictionary<string, float[]> actual)
    {
        foreach (var (name, values) in expected) Assert.Equal(values, actual[name]);
    }
}
