using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>y = x on another device, of one or several tensors; dx = dy on x's. Any type and shape.</summary>
public sealed class Transfer(Device target) : Op
{
    /// <summary>x itself where it is there already.</summary>
    public static Tensor Apply(Tensor x, Device target) => x.Device == target ? x : new Transfer(target).Run(x)[0];

    /// <summary>Several that lie on one device: the host waits once for all of them.</summary>
    public static Tensor[] Together(Device target, params Tensor[] xs)
    {
        ArgumentNullException.ThrowIfNull(xs);
        return xs.All(x => x.Device != target && x.Device == xs[0].Device) ? new Transfer(target).Run(xs) : Array.ConvertAll(xs, x => Apply(x, target));
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        if (target.Kind == DeviceKind.Cuda && target.Index >= CudaDevice.Count)
            throw Wrong($"there is no {target}: {CudaDevice.Missing ?? $"the driver shows {CudaDevice.Count} card(s), numbered from 0"}");
        return new Frame(inputs, Array.ConvertAll(inputs, x => Tensor.Empty(x.Type, target, x.Shape)));
    }

    protected override void Plain(Frame f) => Memory.Copy(f.Inputs, f.Outputs);

    protected override void Cuda(Frame f) => Plain(f);

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var gradients = new Tensor?[dOut.Length];
        for (var i = 0; i < dOut.Length; i++)
            if (dOut[i] is { } dy) gradients[i] = Apply(dy, f.Inputs[i].Device) is var dx && ReferenceEquals(dx, dy) ? dx.Alias() : dx;
        return gradients;
    }
}
