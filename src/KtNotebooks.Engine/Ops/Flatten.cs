using KtNotebooks.Autograd;

namespace KtNotebooks.Ops;

/// <summary>[T, a, b, …] seen as [T, a·b·…]: a view, no copy, on every device.</summary>
public sealed class Flatten : Op
{
    public static Tensor Apply(Tensor x) => new Flatten().Run(x)[0];

    protected override Frame Prepare(Tensor[] inputs) => new(inputs, [inputs[0].View(inputs[0].Dim(0), inputs[0].Dim(0) == 0 ? inputs[0].Shape[1..].ToArray().Aggregate(1L, (a, b) => a * b) : inputs[0].Count / inputs[0].Dim(0))]);

    protected override void Plain(Frame f)
    {
    }

    protected override void Cuda(Frame f)
    {
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [dOut[0]!.View(f.Inputs[0].Shape)];
}
