using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y[r,i] = x[r,i] · rstd[r] · w[i], rstd[r] = 1 / √(mean_i x[r,i]² + eps). x [..., D] F32 or BF16; w [D] F32; y like x. Saves rstd [R] F32.
/// Zhang and Sennrich 2019.
/// </summary>
public sealed class RmsNorm(float eps) : Op
{
    // One block a row; a thread moves VEC neighbours at once. The second pass over the row finds it in the cache.
    private const string CudaSource = """
        typedef Pack<T, VEC> Values;
        typedef Pack<float, VEC> Floats;

        extern "C" __global__ void rms_norm(const T* x, const float* w, T* y, float* rstd, int D, float eps)
        {
            const Values* X = (const Values*)(x + (long long)blockIdx.x * D);
            Values* Y = (Values*)(y + (long long)blockIdx.x * D);
            const Floats* W = (const Floats*)w;
            float sum = 0;
            for (int i = threadIdx.x; i < D / VEC; i += blockDim.x)
            {
                Values a = X[i];
                for (int j = 0; j < VEC; j++) sum += widen(a.v[j]) * widen(a.v[j]);
            }
            float scale = 1.0f / sqrtf(block_sum(sum) / D + eps);
            if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
            for (int i = threadIdx.x; i < D / VEC; i += blockDim.x)
            {
                Values a = X[i], r;
                Floats b = W[i];
                for (int j = 0; j < VEC; j++) store(&r.v[j], widen(a.v[j]) * scale * b.v[j]);
                Y[i] = r;
            }
        }

        extern "C" __global__ void rms_norm_dx(const T* dy, const T* x, const float* w, const float* rstd, T* dx, int D)
        {
            const Values* G = (const Values*)(dy + (long long)blockIdx.x * D);
            const Values* X = (const Values*)(x + (long long)blockIdx.x * D);
            Values* R = (Values*)(dx + (long long)blockIdx.x * D);
            const Floats* W = (const Floats*)w;
            float sum = 0;
            for (int i = threadIdx.x; i < D / VEC; i += blockDim.x)
            {
                Values g = G[i], a = X[i];
                Floats b = W[i];
                for (int j = 0; j < VEC; j++) sum += widen(g.v[j]) * b.v[j] * widen(a.v[j]);
            }
            float scale = rstd[blockIdx.x], mean = block_sum(sum) / D * scale * scale;
            for (int i = threadIdx.x; i < D / VEC; i += blockDim.x)
            {
                Values g = G[i], a = X[i], r;
                Floats b = W[i];
                for (int j = 0; j < VEC; j++) store(&r.v[j], scale * (widen(g.v[j]) * b.v[j] - widen(a.v[j]) * mean));
                R[i] = r;
            }
        }

        // dw in two steps, so that sums are always added in the same order: group g of blockIdx.y adds its rows for one column a thread, then the groups
        // are added.
        extern "C" __global__ void rms_norm_dw_groups(const T* dy, const T* x, const float* rstd, float* partial, int R, int D, int rows_per_group)
        {
            int column = blockIdx.x * blockDim.x + threadIdx.x;
            if (column >= D) return;
            int first = blockIdx.y * rows_per_group, last = min(R, first + rows_per_group);
            float sum = 0;
            for (int row = first; row < last; row++) sum += widen(dy[(long long)row * D + column]) * widen(x[(long long)row * D + column]) * rstd[row];
            partial[(long long)blockIdx.y * D + column] = sum;
        }

        extern "C" __global__ void rms_norm_dw(const float* partial, float* dw, int D, int groups)
        {
            int column = blockIdx.x * blockDim.x + threadIdx.x;
            if (column >= D) return;
            float sum = 0;
            for (int g = 0; g < groups; g++) sum += partial[(long long)g * D + column];
            dw[column] = sum;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(RmsNorm), CudaSource);

    public static Tensor Apply(Tensor x, Tensor w, float eps) => new RmsNorm(eps).Run(x, w)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (x, w) = (inputs[0], inputs[1]);
        ExpectFloat(x, "x");
        if (w.Type != DType.F32 || !w.HasShape(x.Width)) throw Wrong($"w must be F32[{x.Width}], the last dimension of x, but is {w}");
        return new Frame(inputs, [Allocate(x, x.Type, x.Shape)], Allocate(x, DType.F32, x.Rows));
    }

    protected override void Plain(Frame f)
    {
        var (X, W) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats());
        var (R, D) = (f.Inputs[0].Rows, W.Length);
        var (Y, rstd) = (new float[X.Length], new float[R]);
        for (var r = 0; r < R; r++)
        {
            double sum = 0;
            for (var i = 0; i < D; i++) sum += (double)X[(r * D) + i] * X[(r * D) + i];
            var scale = 1 / Math.Sqrt((sum / D) + eps);
            rstd[r] = (float)scale;
            for (var i = 0; i < D; i++) Y[(r * D) + i] = (float)(X[(r * D) + i] * scale * W[i]);
        }
        f.Outputs[0].Store(Y);
        f.Saved[0].Store(rstd);
    }

    protected override void Cpu(Frame f)
    {
        var (x, y, rstd) = (f.Inputs[0], f.Outputs[0], f.Saved[0]);
        var w = f.Inputs[1];
        var D = x.Width;
        RowParallel.For(x.Rows, D, (first, last) =>
        {
            var (a, b) = (new float[D], new float[D]);
            for (var row = first; row < last; row++)
            {
                var target = FloatRows.Target(y, row, b);
                rstd.Span<float>()[(int)row] = Row(FloatRows.Load(x, row, a), w.Span<float>(), eps, target);
                FloatRows.Store(y, row, target);
            }
        });
    }

    /// <summary>One row on the CPU; returns its rstd.</summary>
    internal static float Row(ReadOnlySpan<float> x, ReadOnlySpan<float> w, float eps, Span<float> y)
    {
        var scale = (float)(1 / Math.Sqrt((TensorPrimitives.SumOfSquares(x) / x.Length) + eps));
        TensorPrimitives.Multiply(x, scale, y);
        TensorPrimitives.Multiply(y, w, y);
        return scale;
    }

    protected override void Cuda(Frame f)
    {
        var (x, w, y, rstd) = (f.Inputs[0], f.Inputs[1], f.Outputs[0], f.Saved[0]);
        var packs = Packs.Of(x.Width, x, x, w, y);
        Program.Kernel(x.Gpu(), "rms_norm", packs.Options).Launch(x.Rows, packs.Threads(x.Width), x.Pointer, w.Pointer, y.Pointer, rstd.Pointer, x.Width, eps);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var outputs = new Grad(f.Needs(1)).Run(dOut[0]!, f.Inputs[0], f.Inputs[1], f.Saved[0]);
        return [outputs[0], f.Needs(1) ? outputs[1] : null];
    }

    /// <summary>dx = rstd · (dy·w − x · rstd² · mean(dy·w·x)) ; dw = Σ_r dy · x · rstd. Inputs dy, x, w, rstd; outputs dx [, dw].</summary>
    private sealed class Grad(bool wantsW) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs)
        {
            var (x, w) = (inputs[1], inputs[2]);
            var dx = Allocate(x, x.Type, x.Shape);
            return new Frame(inputs, wantsW ? [dx, Allocate(w, DType.F32, w.Shape)] : [dx]);
        }

        protected override void Plain(Frame f)
        {
            var (dY, X, W, rstd) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats(), f.Inputs[3].ToFloats());
            var D = W.Length;
            var (dX, dW) = (new float[X.Length], new double[D]);
            for (var r = 0; r < rstd.Length; r++)
            {
                double mean = 0;
                for (var i = 0; i < D; i++) mean += (double)dY[(r * D) + i] * W[i] * X[(r * D) + i];
                mean /= D;
                for (var i = 0; i < D; i++)
                {
                    var at = (r * D) + i;
                    dX[at] = (float)(rstd[r] * (((double)dY[at] * W[i]) - (X[at] * (double)rstd[r] * rstd[r] * mean)));
                    dW[i] += (double)dY[at] * X[at] * rstd[r];
                }
            }
            f.Outputs[0].Store(dX);
            if (wantsW) f.Outputs[1].Store(Array.ConvertAll(dW, v => (float)v));
        }

        protected override void Cpu(Frame f)
        {
            var (dy, x, w, rstd) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Inputs[3]);
            var dx = f.Outputs[0];
            var (R, D) = (x.Rows, x.Width);
            RowParallel.For(R, D, (first, last) =>
            {
                var (a, b, c) = (new float[D], new float[D], new float[D]);
                for (var row = first; row < last; row++)
                {
                    var source = FloatRows.Load(x, row, a);
                    var scale = rstd.Span<float>()[(int)row];
                    TensorPrimitives.Multiply(FloatRows.Load(dy, row, b), w.Span<float>(), b);
                    var mean = TensorPrimitives.Dot(b.AsSpan(), source) / D;
                    TensorPrimitives.Multiply(source, -scale * scale * mean, c);
                    TensorPrimitives.Add(b, c, c);
                    TensorPrimitives.Multiply(c, scale, c);
                    FloatRows.Store(dx, row, c);
                }
            });
            if (!wantsW) return;
            var dw = f.Outputs[1].Span<float>();
            var scratch = new float[D];
            var scratch2 = new float[D];
            dw.Clear();
            for (var row = 0; row < R; row++)
            {
                TensorPrimitives.Multiply(FloatRows.Load(dy, row, scratch), FloatRows.Load(x, row, scratch2), scratch);
                TensorPrimitives.MultiplyAdd(scratch, rstd.Span<float>()[row], dw, dw);
            }
        }

        protected override void Cuda(Frame f)
        {
            const int Columns = 128;
            var (dy, x, w, rstd, dx) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Inputs[3], f.Outputs[0]);
            var (card, R, D) = (x.Gpu(), x.Rows, x.Width);
            var packs = Packs.Of(D, x, dy, w, dx);
            Program.Kernel(card, "rms_norm_dx", packs.Options).Launch(R, packs.Threads(D), dy.Pointer, x.Pointer, w.Pointer, rstd.Pointer, dx.Pointer, D);
            if (!wantsW) return;
            var blocks = (D + Columns - 1) / Columns;
            // Enough blocks to fill the card, at least 32 rows each.
            var groups = Math.Clamp(card.Multiprocessors * 8 / blocks, 1, Math.Max(1, (R + 31) / 32));
            var rows = (R + groups - 1) / groups;
            using var partial = Allocate(x, DType.F32, groups, D);
            Program.Kernel(card, "rms_norm_dw_groups", packs.Options)
                .Launch((blocks, groups), Columns, dy.Pointer, x.Pointer, rstd.Pointer, partial.Pointer, R, D, rows);
            Program.Kernel(card, "rms_norm_dw", packs.Options).Launch(blocks, Columns, partial.Pointer, f.Outputs[1].Pointer, D, groups);
        }
    }
}
