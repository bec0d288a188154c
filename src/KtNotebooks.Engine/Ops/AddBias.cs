using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>y[r, n] = x[r, n] + b[n]. x [..., N] F32 or BF16; b [N] F32; y like x. dx = dy; db[n] = Σ_r dy[r, n], F32, where b is trained.</summary>
public sealed class AddBias : Op
{
    private const string CudaSource = """
        typedef Pack<T, VEC> Values;

        extern "C" __global__ void add_bias(const Values* x, const Pack<float, VEC>* b, Values* y, long long packs, int width)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs) return;
            Values r = x[i];
            Pack<float, VEC> bias = b[i % width];
            for (int j = 0; j < VEC; j++) store(&r.v[j], widen(r.v[j]) + bias.v[j]);
            y[i] = r;
        }

        // A thread a column, the rows in their order.
        extern "C" __global__ void add_bias_grad(const T* dy, float* db, int rows, int width)
        {
            int n = blockIdx.x * blockDim.x + threadIdx.x;
            if (n >= width) return;
            float sum = 0;
            for (int r = 0; r < rows; r++) sum += widen(dy[(long long)r * width + n]);
            db[n] = sum;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(AddBias), CudaSource);

    public static Tensor Apply(Tensor x, Tensor b) => new AddBias().Run(x, b)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        ExpectFloat(inputs[0], "x");
        Expect(inputs[1], "b", DType.F32, inputs[0].Width);
        return new Frame(inputs, [Allocate(inputs[0], inputs[0].Type, inputs[0].Shape)]);
    }

    protected override void Plain(Frame f)
    {
        var (x, b) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats());
        for (var i = 0; i < x.Length; i++) x[i] += b[i % b.Length];
        f.Outputs[0].Store(x);
    }

    protected override void Cpu(Frame f)
    {
        var (x, b, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        RowParallel.For(x.Rows, x.Width, (first, last) =>
        {
            var (s, t) = (new float[x.Width], new float[x.Width]);
            for (var row = first; row < last; row++)
            {
                var target = FloatRows.Target(y, row, t);
                TensorPrimitives.Add(FloatRows.Load(x, row, s), b.Span<float>(), target);
                FloatRows.Store(y, row, target);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (x, b, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        var packs = Packs.Of(x.Width, x, b, y);
        Program.Kernel(x.Gpu(), "add_bias", packs.Options)
            .Launch(packs.Blocks(x.Count), Packs.Block, x.Pointer, b.Pointer, y.Pointer, packs.In(x.Count), (int)packs.In(x.Width));
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        [f.Needs(0) ? dOut[0]!.Alias() : null, f.Needs(1) ? new Grad().Run(dOut[0]!)[0] : null];

    /// <summary>Input dy; output db.</summary>
    private sealed class Grad : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) => new(inputs, [Allocate(inputs[0], DType.F32, inputs[0].Width)]);

        protected override void Plain(Frame f)
        {
            var (dy, sums) = (f.Inputs[0].ToFloats(), new double[f.Inputs[0].Width]);
            for (var i = 0; i < dy.Length; i++) sums[i % sums.Length] += dy[i];
            f.Outputs[0].Store(Array.ConvertAll(sums, s => (float)s));
        }

        protected override void Cuda(Frame f)
        {
            var (dy, db) = (f.Inputs[0], f.Outputs[0]);
            Program.Kernel(dy.Gpu(), "add_bias_grad", Packs.Of(1, dy, dy).Options)
                .Launch((dy.Width + Packs.Block - 1) / Packs.Block, Packs.Block, dy.Pointer, db.Pointer, dy.Rows, dy.Width);
        }
    }
}
