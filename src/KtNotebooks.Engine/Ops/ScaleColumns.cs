using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y[r, n] = x[r, n] · m[n] / c[n], the last step of DoRA: m magnitudes that are trained, c lengths that count as constants. x [..., N] F32 or BF16; m, c [N]
/// F32; y like x. dx = dy · m / c; dm[n] = Σ_r dy[r, n] · x[r, n] / c[n], F32.
/// </summary>
public sealed class ScaleColumns : Op
{
    private const string CudaSource = """
        extern "C" __global__ void scale_columns(const T* x, const float* m, const float* c, T* y, long long count, int width)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i < count) store(&y[i], widen(x[i]) * (m[i % width] / c[i % width]));
        }

        // A thread a column, the rows in their order.
        extern "C" __global__ void scale_columns_grad(const T* dy, const T* x, const float* c, float* dm, int rows, int width)
        {
            int n = blockIdx.x * blockDim.x + threadIdx.x;
            if (n >= width) return;
            float sum = 0;
            for (int r = 0; r < rows; r++) sum += widen(dy[(long long)r * width + n]) * widen(x[(long long)r * width + n]);
            dm[n] = sum / c[n];
        }
        """;

    private static readonly CudaProgram Program = new(nameof(ScaleColumns), CudaSource);

    public static Tensor Apply(Tensor x, Tensor magnitudes, Tensor lengths) => new ScaleColumns().Run(x, magnitudes, lengths)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        ExpectFloat(inputs[0], "x");
        Expect(inputs[1], "m", DType.F32, inputs[0].Width);
        Expect(inputs[2], "c", DType.F32, inputs[0].Width);
        return new Frame(inputs, [Allocate(inputs[0], inputs[0].Type, inputs[0].Shape)]);
    }

    protected override void Plain(Frame f)
    {
        var (x, m, c) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats());
        for (var i = 0; i < x.Length; i++) x[i] *= m[i % m.Length] / c[i % c.Length];
        f.Outputs[0].Store(x);
    }

    protected override void Cpu(Frame f) => Scale(f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0]);

    protected override void Cuda(Frame f) => ScaleOnGpu(f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0]);

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var outputs = new Grad(f.Needs(1)).Run(dOut[0]!, f.Inputs[0], f.Inputs[1], f.Inputs[2]);
        return [outputs[0], f.Needs(1) ? outputs[1] : null, null];
    }

    private static void Scale(Tensor x, Tensor m, Tensor c, Tensor y)
    {
        var ratios = new float[x.Width];
        TensorPrimitives.Divide(m.Span<float>(), c.Span<float>(), ratios);
        RowParallel.For(x.Rows, x.Width, (first, last) =>
        {
            var (s, t) = (new float[x.Width], new float[x.Width]);
            for (var row = first; row < last; row++)
            {
                var target = FloatRows.Target(y, row, t);
                TensorPrimitives.Multiply(FloatRows.Load(x, row, s), ratios, target);
                FloatRows.Store(y, row, target);
            }
        });
    }

    private static void ScaleOnGpu(Tensor x, Tensor m, Tensor c, Tensor y) => Program.Kernel(x.Gpu(), "scale_columns", Packs.Of(1, x, y).Options)
        .Launch((x.Count + Packs.Block - 1) / Packs.Block, Packs.Block, x.Pointer, m.Pointer, c.Pointer, y.Pointer, x.Count, x.Width);

    /// <summary>Inputs dy, x, m, c; outputs dx [, dm].</summary>
    private sealed class Grad(bool wantsMagnitudes) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs)
        {
            var dx = Allocate(inputs[0], inputs[0].Type, inputs[0].Shape);
            return new Frame(inputs, wantsMagnitudes ? [dx, Allocate(inputs[0], DType.F32, inputs[0].Width)] : [dx]);
        }

        protected override void Plain(Frame f)
        {
            var (dy, x, m, c) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats(), f.Inputs[3].ToFloats());
            var sums = new double[m.Length];
            for (var i = 0; i < dy.Length; i++)
            {
                sums[i % m.Length] += (double)dy[i] * x[i];
                dy[i] *= m[i % m.Length] / c[i % m.Length];
            }
            f.Outputs[0].Store(dy);
            if (wantsMagnitudes) f.Outputs[1].Store([.. sums.Select((s, n) => (float)(s / c[n]))]);
        }

        protected override void Cuda(Frame f)
        {
            var (dy, x, m, c) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Inputs[3]);
            ScaleOnGpu(dy, m, c, f.Outputs[0]);
            if (!wantsMagnitudes) return;
            Program.Kernel(dy.Gpu(), "scale_columns_grad", Packs.Of(1, dy, x).Options)
                .Launch((dy.Width + Packs.Block - 1) / Packs.Block, Packs.Block, dy.Pointer, x.Pointer, c.Pointer, f.Outputs[1].Pointer, dy.Rows, dy.Width);
        }
    }
}
