using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Ops;

/// <summary>What one forward and backward gave, on the host. Gradients stand at their input's place; null where none was asked for.</summary>
public sealed record OpResult(float[]?[] Outputs, int[]?[] Indices, float[]?[] Gradients);

/// <summary>Runs a case forward and backward as the tape would, on one variant.</summary>
public static class OpHarness
{
    /// <summary>
    /// Forward, then backward from fixed random output gradients. <paramref name="trained"/> says which inputs require a gradient (by default all that the
    /// case trains); output <paramref name="missing"/> has no gradient (null), or zeros with <paramref name="missingAsZero"/>.
    /// </summary>
    public static OpResult Run(OpCase test, Variant variant, Func<int, bool>? trained = null, int missing = -1, bool missingAsZero = false)
    {
        var inputs = OnDevice(test.MakeInputs(), variant.Device);
        try
        {
            for (var i = 0; i < inputs.Length; i++) inputs[i].RequiresGrad = test.Inputs[i].Trained && (trained?.Invoke(i) ?? true);
            using var tape = Tape.Record();
            var outputs = test.Apply(inputs);
            var frame = tape.Frames.Single();
            var gradients = new float[]?[inputs.Length];
            using (Tape.Scratch())
            {
                var dOut = new Tensor?[frame.Outputs.Length];
                for (var i = 0; i < dOut.Length; i++)
                {
                    if (!frame.Outputs[i].Type.IsFloat() || (i == missing && !missingAsZero)) continue;
                    using var host = Cotangent(frame.Outputs[i], i, i == missing ? 0 : 1);
                    dOut[i] = host.To(variant.Device);
                }
                var dIn = frame.Op.Backward(frame, dOut);
                for (var i = 0; i < inputs.Length; i++)
                {
                    var place = Array.IndexOf(frame.Inputs, inputs[i]);
                    if (place >= 0 && inputs[i].RequiresGrad)
                        gradients[i] = (dIn[place] ?? throw new InvalidOperationException($"input {i} requires a gradient and got none")).ToFloats();
                }
                foreach (var d in dIn) d?.Dispose();
                foreach (var d in dOut) d?.Dispose();
            }
            return new OpResult([.. outputs.Select(o => o.Type.IsFloat() ? o.ToFloats() : null)],
                [.. outputs.Select(o => o.Type.IsFloat() ? null : o.ToInts())], gradients);
        }
        finally
        {
            foreach (var input in inputs) input.Dispose();
        }
    }

    /// <summary>The same through the definitions alone.</summary>
    public static OpResult Plain(OpCase test, Func<int, bool>? trained = null)
    {
        using (Op.UsePlain()) return Run(test, Variant.Of("cpu/plain"), trained);
    }

    /// <summary>Σ over outputs of gradient · output (plus the hidden loss), in double, for the given host inputs; and the size of its terms.</summary>
    public static (double Loss, double Size) Loss(OpCase test, Tensor[] inputs)
    {
        using var plain = Op.UsePlain();
        using var scratch = Tape.Scratch();
        double loss = 0, squares = 0;
        var outputs = test.Apply(inputs);
        for (var i = 0; i < outputs.Length; i++)
        {
            if (!outputs[i].Type.IsFloat()) continue;
            using var cotangent = Cotangent(outputs[i], i, 1);
            var (y, c) = (outputs[i].ToFloats(), cotangent.ToFloats());
            for (var j = 0; j < y.Length; j++)
            {
                loss += (double)y[j] * c[j];
                squares += (double)y[j] * c[j] * y[j] * c[j];
            }
        }
        return (loss + (test.Hidden?.Invoke(inputs) ?? 0), Math.Sqrt(squares));
    }

    private static Tensor[] OnDevice(Tensor[] host, Device device)
    {
        if (device.Kind == DeviceKind.Cpu) return host;
        var moved = Array.ConvertAll(host, t => t.To(device));
        foreach (var tensor in host) tensor.Dispose();
        return moved;
    }

    private static Tensor Cotangent(Tensor output, int index, float scale) =>
        new Input(output.Type, output.Shape.ToArray(), Scale: scale).Make(new Random(99 + index));
}
