using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y = x, and the slope of a loss term besides: dx = dy + g. x F32 or BF16 of any shape, g F32 of that shape, frozen. For terms whose gradient is known and
/// whose value nobody
/// goes back from.
/// </summary>
public sealed class AddSlope : Op
{
    public static Tensor Apply(Tensor x, Tensor slope) => new AddSlope().Run(x, slope)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        ExpectFloat(inputs[0], "x");
        Expect(inputs[1], "g", DType.F32, inputs[0].Shape);
        return new Frame(inputs, [Allocate(inputs[0], inputs[0].Type, inputs[0].Shape)]);
    }

    protected override void Plain(Frame f) => Memory.Copy(f.Inputs[0], f.Outputs[0]);

    protected override void Cuda(Frame f) => Plain(f);

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var dx = dOut[0]!.Clone();
        GradientSum.AddInto(dx, f.Inputs[1]);
        return [dx, null];
    }
}
