using KtNotebooks.Autograd;

namespace KtNotebooks.Ops;

/// <summary>[T, a, b, …] seen as [T, a·b·…]: a view, no copy, on every device.</summary>
public sealed class Flatten : Op
{
    public static Tensor Apply(Tensor x) => new Flatten().Run(x)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var x = inputs[0];
        if (x.Rank < 2) throw Wrong($"x must be [T, a, …], but is {x}");
        long width = 1;
        foreach (var dim in x.Shape[1..]) width *= dim;
        return new Frame(inputs, [x.View(x.Dim(0), width)]);
    }

    protected override void Plain(Frame f)
    {
    }

    protected override void Cuda(Frame f)
    {
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [dOut[0]!.View(f.Inputs[0].Shape)];
}
