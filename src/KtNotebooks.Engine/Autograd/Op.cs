using KtNotebooks.Tensors;

namespace KtNotebooks.Autograd;

/// <summary>
/// One differentiable function of tensors. An op is a small object with its settings; <see cref="Run"/> checks, allocates, dispatches by device and records.
/// <see cref="Plain"/> is the definition (simple loops, sums in double) and the oracle of the tests; <see cref="Cpu"/> falls back to it.
/// Kernels overwrite their outputs; only the tape adds gradients.
/// </summary>
public abstract class Op
{
    private static readonly AsyncLocal<bool> PlainOnly = new();

    /// <summary>The class, and the one that it lies in; not that of a notebook's cell, whose name (Submission#7) nobody wrote.</summary>
    public virtual string Name => GetType().DeclaringType is { } outer && !outer.Name.Contains('#') ? $"{outer.Name}.{GetType().Name}" : GetType().Name;

    /// <summary>While the returned object lives, ops started from here run their <see cref="Plain"/> definition. For tests and teaching.</summary>
    public static IDisposable UsePlain()
    {
        PlainOnly.Value = true;
        return new Restore();
    }

    /// <summary>Checks the inputs once, allocates outputs and what backward needs.</summary>
    protected abstract Frame Prepare(Tensor[] inputs);

    protected abstract void Plain(Frame f);

    protected virtual void Cpu(Frame f) => Plain(f);

    protected virtual void Cuda(Frame f) => throw new NotSupportedException($"[{Name}] has no CUDA kernel yet");

    /// <summary>
    /// Bytes that a run takes beside inputs and outputs and gives back when it ends: asked when an op meets shapes without memory, to predict what a model
    /// needs.
    /// </summary>
    protected virtual long ScratchBytes(Frame f) => 0;

    /// <summary>An input that the op reaches wherever it lies; all others are on the device of the first.</summary>
    protected virtual bool MayLieElsewhere(int input) => false;

    /// <summary>Gradients of the inputs for given gradients of the outputs (null: zero). An entry may be null where f.Needs(i) is false.</summary>
    protected internal abstract Tensor?[] Backward(Frame f, Tensor?[] dOut);

    public Tensor[] Run(params Tensor[] inputs)
    {
        ArgumentNullException.ThrowIfNull(inputs);
        var device = inputs[0].Device;
        for (var i = 0; i < inputs.Length; i++)
            if (inputs[i].Device != device && !MayLieElsewhere(i))
                throw new ArgumentException($"[{Name}] inputs are on {device} and {inputs[i].Device}; all must be on one device");
        var frame = Prepare(inputs);
        frame.Op = this;
        try
        {
            if (device.Kind == DeviceKind.Meta) MetaBuffer.Touch(ScratchBytes(frame));
            else if (device.Kind == DeviceKind.Cuda) Cuda(frame);
            else if (PlainOnly.Value) Plain(frame);
            else Cpu(frame);
        }
        catch
        {
            // A card that is full must be able to go on with less: nothing waits for the finalizer.
            foreach (var output in frame.Outputs) output.Dispose();
            frame.FreeSaved();
            throw;
        }
        Tape.Note(frame);
        return frame.Outputs;
    }

    /// <summary>A tensor like <paramref name="like"/> in device, with its own type and shape.</summary>
    protected static Tensor Allocate(Tensor like, DType type, params ReadOnlySpan<long> shape) => Tensor.Empty(type, like.Device, shape);

    protected ArgumentException Wrong(string what) => new($"[{Name}] {what}");

    /// <summary>Throws `[Op] name must be type[shape], but is …`.</summary>
    protected void Expect(Tensor tensor, string name, DType type, params ReadOnlySpan<long> shape)
    {
        if (tensor.Type != type || !tensor.HasShape(shape)) throw Wrong($"{name} must be {type}[{string.Join(", ", shape.ToArray())}], but is {tensor}");
    }

    protected void ExpectFloat(Tensor tensor, string name)
    {
        if (!tensor.Type.IsFloat()) throw Wrong($"{name} must be F32 or BF16, but is {tensor}");
    }

    private sealed class Restore : IDisposable
    {
        public void Dispose() => PlainOnly.Value = false;
    }
}

/// <summary>An op of generation alone: same dispatch, no gradient.</summary>
internal abstract class InferenceOp : Op
{
    protected internal sealed override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        throw new NotSupportedException($"[{Name}] is for inference: it has no gradient");
}

/// <summary>The gradient of an op as an op of its own: same dispatch, same harness, no second derivative.</summary>
public abstract class GradOp : Op
{
    protected internal sealed override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        throw new NotSupportedException($"[{Name}] second derivatives are not supported");
}
