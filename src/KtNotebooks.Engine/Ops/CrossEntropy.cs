using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// loss = Σ_r weight[r] · (log Σ_v exp z[r,v] − z[r, target[r]]). z [R, V] F32 or BF16; targets [R]; weights [R]; loss F32 [1]. dz = weight · (softmax(z) −
/// onehot). Rows with target −100 add nothing. The weights hold the loss normalisation of the whole window (1 / number of targets, or its micro-batch form).
/// Saves the log-sum-exp [R] F32. On a card the forward also makes dz, for dLoss = 1, while it has the row at hand: z is read once, and backward only looks
/// whether dLoss is something else.
/// </summary>
public sealed class CrossEntropy(int[] targets, float[] weights) : Op
{
    public const int Ignore = -100;

    // cross_entropy: one block a row. The first pass takes maximum and sum together (the sum is rescaled when the maximum grows); the second finds the row
    // in the cache.
    private const string CudaSource = """
        typedef Pack<T, VEC> Values;

        extern "C" __global__ void __launch_bounds__(1024) cross_entropy(const Values* z, const int* targets, const float* weights,
            float* lse, float* losses, Values* dz, int width)
        {
            __shared__ float warps[32];
            long long row = blockIdx.x;
            const Values* Z = z + row * width;
            float max = -3.402823466e38f, sum = 0;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
            {
                Values a = Z[i];
                float m = max;
                for (int j = 0; j < VEC; j++) m = fmaxf(m, widen(a.v[j]));
                sum *= expf(max - m);
                for (int j = 0; j < VEC; j++) sum += expf(widen(a.v[j]) - m);
                max = m;
            }
            float top = max;
            for (int offset = 16; offset > 0; offset >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
            if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = top;
            __syncthreads();
            for (int w = 0; w < blockDim.x >> 5; w++) top = fmaxf(top, warps[w]);
            float log = top + logf(block_sum(sum * expf(max - top))), weight = weights[row];
            int target = targets[row];
            if (threadIdx.x == 0)
            {
                lse[row] = log;
                losses[row] = target < 0 ? 0.0f : weight * (log - widen(((const T*)Z)[target]));
            }
            if (!dz) return;
            Values* D = dz + row * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
            {
                Values a = Z[i];
                for (int j = 0; j < VEC; j++) store(&a.v[j], target < 0 ? 0.0f : weight * (expf(widen(a.v[j]) - log) - (i * VEC + j == target ? 1.0f : 0.0f)));
                D[i] = a;
            }
        }

        // One block, always in the same order.
        extern "C" __global__ void sum_losses(const float* losses, float* loss, int rows)
        {
            float sum = 0;
            for (int i = threadIdx.x; i < rows; i += blockDim.x) sum += losses[i];
            sum = block_sum(sum);
            if (threadIdx.x == 0) *loss = sum;
        }

        // dz *= dLoss; nothing to do in the usual case of 1.
        extern "C" __global__ void times(const float* factor, Values* dz, long long packs)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (*factor == 1.0f || i >= packs) return;
            Values a = dz[i];
            for (int j = 0; j < VEC; j++) store(&a.v[j], widen(a.v[j]) * *factor);
            dz[i] = a;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(CrossEntropy), CudaSource);

    public static Tensor Apply(Tensor logits, int[] targets, float[] weights) => new CrossEntropy(targets, weights).Run(logits)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var z = inputs[0];
        ExpectFloat(z, "logits");
        if (targets.Length != z.Rows || weights.Length != z.Rows)
            throw Wrong($"targets and weights must have {z.Rows} entries, one a row of {z}, but have {targets.Length} and {weights.Length}");
        foreach (var target in targets)
            if (target != Ignore && (target < 0 || target >= z.Width)) throw Wrong($"target {target} is not in the vocabulary of {z.Width}");
        var lse = Allocate(z, DType.F32, z.Rows);
        return new Frame(inputs, [Allocate(z, DType.F32, 1)], z.Device.Kind == DeviceKind.Cuda && z.RequiresGrad ? [lse, Allocate(z, z.Type, z.Shape)] : [lse]);
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

    protected override void Cuda(Frame f)
    {
        var (z, dz) = (f.Inputs[0], f.Saved.Length > 1 ? f.Saved[1] : null);
        using var at = Memory.Place(targets, z.Device);
        using var w = Memory.Place(weights, z.Device);
        using var losses = Allocate(z, DType.F32, z.Rows);
        var packs = Packs.Of(z.Width, z, z, dz);
        var threads = (int)Math.Clamp((packs.In(z.Width) + 31) / 32 * 32, 32, 1024);
        Program.Kernel(z.Gpu(), "cross_entropy", packs.Options)
            .Launch(z.Rows, threads, z.Pointer, at.Pointer, w.Pointer, f.Saved[0].Pointer, losses.Pointer, dz?.Pointer ?? 0, (int)packs.In(z.Width));
        Program.Kernel(z.Gpu(), "sum_losses", packs.Options).Launch(1, 256, losses.Pointer, f.Outputs[0].Pointer, z.Rows);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [.. new Grad(targets, weights).Run([dOut[0]!, f.Inputs[0], .. f.Saved])];

    /// <summary>Inputs dLoss [1], z, lse [, dz for dLoss = 1, which is finished in place]; output dz like z.</summary>
    private sealed class Grad(int[] targets, float[] weights) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) =>
            new(inputs, [inputs.Length > 3 ? inputs[3].Alias() : Allocate(inputs[1], inputs[1].Type, inputs[1].Shape)]);

        protected override void Plain(Frame f)
        {
            var (z, lse, V) = (f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats(), f.Inputs[1].Width);
            var scale = f.Inputs[0].Item();
            for (var r = 0; r < targets.Length; r++)
                for (var v = 0; v < V; v++)
                    z[(r * V) + v] = targets[r] == Ignore
                        ? 0 : (float)((double)scale * weights[r] * (Math.Exp(z[(r * V) + v] - lse[r]) - (targets[r] == v ? 1 : 0)));
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

        protected override void Cuda(Frame f)
        {
            var (scale, dz) = (f.Inputs[0], f.Outputs[0]);
            var packs = Packs.Of(dz.Count, dz, dz);
            Program.Kernel(dz.Gpu(), "times", packs.Options).Launch(packs.Blocks(dz.Count), Packs.Block, scale.Pointer, dz.Pointer, packs.In(dz.Count));
        }
    }
}
