using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// y[t] = x[t] + Σ_j weights[t,j] · b[e], e = indices[t,j]: what the biases b [E, D] F32 of the experts' last projections add to their weighted sum x [T, D].
/// weights F32 [T, k]; indices I32 [T, k]; b is frozen. dx = dy; dweights[t,j] = dy[t] · b[e].
/// </summary>
internal sealed class ExpertBias(DeviceCopies b) : Op
{
    private const string CudaSource = """
        // A block a token.
        extern "C" __global__ void expert_bias(const T* x, const float* weights, const int* indices, const float* b, T* y, int k, int width)
        {
            long long t = blockIdx.x;
            for (int d = threadIdx.x; d < width; d += blockDim.x)
            {
                float sum = widen(x[t * width + d]);
                for (int j = 0; j < k; j++) sum += weights[t * k + j] * b[(long long)indices[t * k + j] * width + d];
                store(y + t * width + d, sum);
            }
        }

        // A block a route.
        extern "C" __global__ void expert_bias_grad(const T* dy, const int* indices, const float* b, float* dweights, int k, int width)
        {
            const T* row = dy + (long long)(blockIdx.x / k) * width;
            const float* bias = b + (long long)indices[blockIdx.x] * width;
            float sum = 0;
            for (int d = threadIdx.x; d < width; d += blockDim.x) sum += widen(row[d]) * bias[d];
            sum = block_sum(sum);
            if (threadIdx.x == 0) dweights[blockIdx.x] = sum;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(ExpertBias), CudaSource);

    private DeviceCopies Biases => b;

    public static Tensor Apply(Tensor x, Tensor weights, Tensor indices, DeviceCopies b) => new ExpertBias(b).Run(x, weights, indices)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (x, weights) = (inputs[0], inputs[1]);
        ExpectFloat(x, "x");
        Expect(weights, "weights", DType.F32, x.Dim(0), weights.Width);
        Expect(inputs[2], "indices", DType.I32, weights.Shape);
        return new Frame(inputs, [Allocate(x, x.Type, x.Shape)]);
    }

    protected override void Plain(Frame f)
    {
        var (x, weights, indices, all) = (f.Inputs[0].ToFloats(), f.Inputs[1], f.Inputs[2].ToInts(), b.On(Device.Cpu));
        var (k, D, w) = (weights.Width, f.Inputs[0].Width, weights.ToFloats());
        for (var t = 0; t < weights.Rows; t++)
            for (var d = 0; d < D; d++)
            {
                double sum = x[(t * D) + d];
                for (var j = 0; j < k; j++) sum += (double)w[(t * k) + j] * all.Row<float>(indices[(t * k) + j])[d];
                x[(t * D) + d] = (float)sum;
            }
        f.Outputs[0].Store(x);
    }

    protected override void Cpu(Frame f)
    {
        var (x, weights, indices, y, all) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0], b.On(Device.Cpu));
        RowParallel.For(x.Rows, (long)x.Width * weights.Width, (first, last) =>
        {
            var sum = new float[x.Width];
            for (var t = first; t < last; t++)
            {
                var row = FloatRows.Load(x, t, sum);
                if (x.Type == DType.F32) row.CopyTo(sum);
                for (var j = 0; j < weights.Width; j++)
                    TensorPrimitives.MultiplyAdd(all.Row<float>(indices.Row<int>(t)[j]), weights.Row<float>(t)[j], sum, sum);
                FloatRows.Store(y, t, sum);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (x, weights, indices, y) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0]);
        if (x.Count == 0) return;
        Program.Kernel(x.Gpu(), "expert_bias", Packs.Of(1, x, x).Options).Launch(x.Rows, Packs.Block, x.Pointer, weights.Pointer, indices.Pointer,
            b.On(x.Device).Pointer, y.Pointer, weights.Width, x.Width);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        [f.Needs(0) ? dOut[0]!.Alias() : null, f.Needs(1) ? new Grad(this).Run(dOut[0]!, f.Inputs[2])[0] : null, null];

    /// <summary>Inputs dy, indices; output dweights.</summary>
    private sealed class Grad(ExpertBias forward) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) => new(inputs, [Allocate(inputs[1], DType.F32, inputs[1].Shape)]);

        protected override void Plain(Frame f)
        {
            var (dy, indices, all) = (f.Inputs[0], f.Inputs[1], forward.Biases.On(Device.Cpu));
            var (scratch, k) = (new float[dy.Width], indices.Width);
            for (var route = 0; route < indices.Count; route++)
            {
                var row = FloatRows.Load(dy, route / k, scratch);
                var bias = all.Row<float>(indices.Span<int>()[route]);
                double sum = 0;
                for (var d = 0; d < row.Length; d++) sum += (double)row[d] * bias[d];
                f.Outputs[0].Span<float>()[route] = (float)sum;
            }
        }

        protected override void Cuda(Frame f)
        {
            var (dy, indices) = (f.Inputs[0], f.Inputs[1]);
            if (indices.Count == 0) return;
            Program.Kernel(dy.Gpu(), "expert_bias_grad", Packs.Of(1, dy, dy).Options).Launch(indices.Count, Packs.Block, dy.Pointer, indices.Pointer,
                forward.Biases.On(dy.Device).Pointer, f.Outputs[0].Pointer, indices.Width, dy.Width);
        }
    }
}
