using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Planning;

/// <summary>
/// What a stage allocates while a chunk of rows goes forward and back through it: the stage itself is run on shapes without memory, by the same ops and the
/// same tape as in training, and the most bytes alive at once are counted. No formula of its own that could fall behind the code.
/// </summary>
internal static class Workspace
{
    /// <summary>Bytes by device: experts that compute elsewhere than their layer have their rows there.</summary>
    /// <param name="rows">That the stage works on at a time: a chunk, or all where its experts cross the bus.</param>
    public static IEnumerable<(Device Device, long Bytes)> Of(Stage stage, CausalLm model, ModelPlacement placement, Window window, int rows)
    {
        var device = placement.Of(stage.Path).Compute;
        var pass = PassOf(rows, window.Sequence);
        var all = Peak(() => Backward(x => stage.Forward(x, pass), model, rows));
        if (stage.All().OfType<MoeMlp>().FirstOrDefault() is not { } moe || placement.Of(moe.Experts.Path).Compute is var at && at == device)
            return [(device, all)];
        var experts = Peak(() => Backward(x => Experts(moe, x, pass), model, rows));
        return [(device, all - experts), (at, experts)];
    }

    /// <summary>Bytes that a forward pass of so many rows leaves for its backward pass where it is remembered.</summary>
    public static long Remembered(Stage stage, CausalLm model, Window window, int rows)
    {
        using var x = Tensor.Empty(model.Type, Device.Meta, rows, model.Info.Width);
        x.RequiresGrad = true;
        var before = MetaBuffer.AliveHere;
        using var tape = Tape.Record();
        stage.Forward(x, PassOf(rows, window.Sequence) with { IsRemembered = true });
        return MetaBuffer.AliveHere - before;
    }

    /// <summary>Final norm, head and loss.</summary>
    public static long OfHead(CausalLm model, int rows) => Peak(() => Backward(x =>
    {
        var logits = model.Logits(GatherRows.Apply(x, [.. Enumerable.Range(0, rows)]), PassOf(rows, rows));
        return CrossEntropy.Apply(logits, new int[rows], new float[rows]);
    }, model, rows));

    private static Tensor Experts(MoeMlp moe, Tensor x, Pass pass)
    {
        var k = moe.Settings.TopK;
        return moe.Experts.Forward(x, Tape.Own(Tensor.Empty(DType.F32, Device.Meta, x.Rows, k)), Tape.Own(Tensor.Empty(DType.I32, Device.Meta, x.Rows, k)),
            pass);
    }

    private static Pass PassOf(int rows, int sequence)
    {
        var starts = Enumerable.Range(0, (rows + sequence - 1) / sequence).Select(s => s * sequence).Append(rows).ToArray();
        return new Pass([.. Enumerable.Range(0, rows).Select(r => r % sequence)], starts, Training: true);
    }

    private static void Backward(Func<Tensor, Tensor> forward, CausalLm model, int rows)
    {
        using var x = Tensor.Empty(model.Type, Device.Meta, rows, model.Info.Width);
        x.RequiresGrad = true;
        using var tape = Tape.Record();
        var y = forward(x);
        using var dy = y.Count == 1 ? null : Tensor.Empty(y.Type, Device.Meta, y.Shape);
        tape.Backward(y, dy);
    }

    /// <summary>Twice, since gradients of parameters, which are counted elsewhere, are made the first time and only added to from then on.</summary>
    private static long Peak(Action run)
    {
        run();
        var before = MetaBuffer.AliveHere;
        MetaBuffer.ResetPeakHere();
        run();
        return MetaBuffer.PeakHere - before;
    }
}
