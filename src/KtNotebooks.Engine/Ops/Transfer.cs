using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>y = x on another device; dx = dy on x's. Any type and shape.</summary>
public sealed class Transfer(Device target) : Op
{
    /// <summary>x itself where it is there already.</summary>
    public static Tensor Apply(Tensor x, Device target) => x.Device == target ? x : new Transfer(target).Run(x)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        if (target.Kind == DeviceKind.Cuda && target.Index >= CudaDevice.Count)
            throw Wrong($"there is no {target}: {CudaDevice.Missing ?? $"the driver shows {CudaDevice.Count} card(s), numbered from 0"}");
        return new Frame(inputs, [Tensor.Empty(inputs[0].Type, target, inputs[0].Shape)]);
    }

    protected override void Plain(Frame f) => Memory.Copy(f.Inputs[0], f.Outputs[0]);

    protected override void Cuda(Frame f) => Plain(f);

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        [Apply(dOut[0]!, f.Inputs[0].Device) is var dx && ReferenceEquals(dx, dOut[0]) ? dx.Alias() : dx];
}
