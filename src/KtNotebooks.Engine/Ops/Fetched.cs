using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y = a parameter that lies in host memory, on a card for as long as it is used; its gradient goes back to host memory. F32, any shape. From pinned memory
/// the copy is queued behind the card's work, not made at once: the parameter must not change before that work has been waited for, which its gradient does.
/// </summary>
internal sealed class Fetched(Device card) : Op
{
    /// <summary>The parameter itself where it is there already.</summary>
    public static Tensor Apply(Tensor parameter, Device card) => parameter.Device == card ? parameter : new Fetched(card).Run(parameter)[0];

    protected override Frame Prepare(Tensor[] inputs) => new(inputs, [Tensor.Empty(inputs[0].Type, card, inputs[0].Shape)]);

    protected override void Plain(Frame f)
    {
        var (parameter, y) = (f.Inputs[0], f.Outputs[0]);
        if (parameter.IsPinned && card.Kind == DeviceKind.Cuda) y.Gpu().Copy(y.Pointer, parameter.Pointer, y.ByteLength);
        else Memory.Copy(parameter, y);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var dy = dOut[0]!;
        if (dy.Device.Kind != DeviceKind.Cuda) return [dy.To(f.Inputs[0].Device)];
        var gradient = PinnedBuffer.Rent(dy.Gpu(), dy.Type, dy.Shape);
        Memory.Copy(dy, gradient); // waits: the tape may add it to another on the host
        return [gradient];
    }
}
