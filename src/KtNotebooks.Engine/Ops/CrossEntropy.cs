using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// loss = Σ_r weight[r] · (log Σ_v exp z[r,v] − z[r, target[r]]). z [R, V] F32 or BF16; targets [R]; weights [R]; loss F32 [1]. dz = weight · (softmax(z) − onehot).
/// Rows with target −100 add nothing. The weights hold the loss normalisation of the whole window (1 / number of targets, or its micro-batch form).
/// Saves the log-sum-exp [R] F32.
/// </summary>
public sealed class CrossEntropy(int[] targets, float[] weights) : Op
{
    public const int Ignore = -100;

    public static Tensor Apply(Tensor logits, int[] targets, float[] weights) => new CrossEntropy(targets, weights).Run(logits)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var z = inputs[0];
        ExpectFloat(z, "logits");
        if (targets.Length != z.Rows || weights.Length != z.Rows) throw Wrong($"targets and weights must have {z.Rows} entries, one a row of {z}, but have {targets.Length} and {weights.Length}");
        foreach (var target in targets)
            if (target != Ignore && (target < 0 || target >= z.Width)) throw Wrong($"target {target} is not in the vocabulary of {z.Width}");
        return new Frame(inputs, [Allocate(z, DType.F32, 1)], Allocate(z, DType.F32, z.Rows));
    }

    protected override void Plain(Frame f)
    {
        var (z, V) = (f.Inputs[0].ToFloats(), f.Inputs[0].Width);
        var lse = new float[targets.Length];
        double loss = 0;
        for (var r = 0; r < targets.Length; r++)
        {
            double max = double.NegativeInfinity, sum = 0;
            for (var v = 0; v < V; v++) max = Math.Max(max, z[(r * V) + v]);
            for (var v = 0; v < V; v++) sum += Math.Exp(z[(r * V) + v] - max);
            lse[r] = (float)(max + Math.Log(sum));
            if (targets[r] != Ignore) loss += weights[r] * (max + Math.Log(sum) - z[(r * V) + targets[r]]);
        }
        f.Saved[0].Store(lse);
        f.Outputs[0].Store([(float)loss]);
    }

    protected override void Cpu(Frame f)
    {
        var z = f.Inputs[0];
        var lse = f.Saved[0];
        var losses = new double[targets.Length];
        RowParallel.For(z.Rows, z.Width * 4L, (first, last) =>
        {
            var (a, b) = (new float[z.Width], new float[z.Width]);
            for (var row = first; row < last; row++)
            {
                if (targets[row] == Ignore) continue;
                var logits = FloatRows.Load(z, row, a);
                var max = TensorPrimitives.Max(logits);
                TensorPrimitives.Subtract(logits, max, b);
                TensorPrimitives.Exp(b, b);
                var log = max + Math.Log(TensorPrimitives.Sum<float>(b));
                lse.Span<float>()[(int)row] = (float)log;
                losses[row] = weights[row] * (log - logits[targets[row]]);
            }
        });
        f.Outputs[0].Span<float>()[0] = (float)losses.Sum();
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [.. new Grad(targets, weights).Run(dOut[0]!, f.Inputs[0], f.Saved[0])];

    /// <summary>Inputs dLoss [1], z, lse; output dz like z.</summary>
    private sealed class Grad(int[] targets, float[] weights) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) => new(inputs, [Allocate(inputs[1], inputs[1].Type, inputs[1].Shape)]);

        protected override void Plain(Frame f)
        {
            var (z, lse, V) = (f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats(), f.Inputs[1].Width);
            var scale = f.Inputs[0].Item();
            for (var r = 0; r < targets.Length; r++)
                for (var v = 0; v < V; v++)
                    z[(r * V) + v] = targets[r] == Ignore ? 0 : (float)((double)scale * weights[r] * (Math.Exp(z[(r * V) + v] - lse[r]) - (targets[r] == v ? 1 : 0)));
            f.Outputs[0].Store(z);
        }

        protected override void Cpu(Frame f)
        {
            var (z, lse, dz) = (f.Inputs[1], f.Inputs[2], f.Outputs[0]);
            var scale = f.Inputs[0].Item();
            RowParallel.For(z.Rows, z.Width * 4L, (first, last) =>
            {
                var (a, b) = (new float[z.Width], new float[z.Width]);
                for (var row = first; row < last; row++)
                {
                    if (targets[row] == Ignore) Array.Clear(b);
                    else
                    {
                        TensorPrimitives.Subtract(FloatRows.Load(z, row, a), lse.Span<float>()[(int)row], b);
                        TensorPrimitives.Exp(b, b);
                        b[targets[row]] -= 1;
                        TensorPrimitives.Multiply(b, scale * weights[row], b);
                    }
                    FloatRows.Store(dz, row, b);
                }
            });
        }
    }
}
