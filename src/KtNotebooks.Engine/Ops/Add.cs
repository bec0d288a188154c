using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>y = a + b, the residual connection. a, b alike, F32 or BF16; da = db = dy.</summary>
public sealed class Add : Op
{
    private const string CudaSource = """
        typedef Pack<T, VEC> Values;

        extern "C" __global__ void add(const Values* a, const Values* b, Values* y, long long packs)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs) return;
            Values r = a[i], s = b[i];
            for (int j = 0; j < VEC; j++) store(&r.v[j], widen(r.v[j]) + widen(s.v[j]));
            y[i] = r;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(Add), CudaSource);

    public static Tensor Apply(Tensor a, Tensor b) => new Add().Run(a, b)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        ExpectFloat(inputs[0], "a");
        Expect(inputs[1], "b", inputs[0].Type, inputs[0].Shape);
        return new Frame(inputs, [Allocate(inputs[0], inputs[0].Type, inputs[0].Shape)]);
    }

    protected override void Plain(Frame f)
    {
        var (a, b) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats());
        for (var i = 0; i < a.Length; i++) a[i] += b[i];
        f.Outputs[0].Store(a);
    }

    protected override void Cpu(Frame f)
    {
        var (a, b, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        RowParallel.For(a.Rows, a.Width, (first, last) =>
        {
            var (s, t) = (new float[a.Width], new float[a.Width]);
            for (var row = first; row < last; row++)
            {
                var target = FloatRows.Target(y, row, t);
                TensorPrimitives.Add(FloatRows.Load(a, row, s), FloatRows.Load(b, row, t), target);
                FloatRows.Store(y, row, target);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (a, b, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        var packs = Packs.Of(a.Count, a, b, y);
        Program.Kernel(a.Gpu(), "add", packs.Options).Launch(packs.Blocks(a.Count), Packs.Block, a.Pointer, b.Pointer, y.Pointer, packs.In(a.Count));
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [f.Needs(0) ? dOut[0]!.Alias() : null, f.Needs(1) ? dOut[0]!.Alias() : null];
}
