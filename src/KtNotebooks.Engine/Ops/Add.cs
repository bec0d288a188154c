using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y = a + b, the residual connection, or a + (b + c), whose inner sum is rounded to the type as if it were stored. All alike, F32 or BF16; da = db = dc = dy.
/// </summary>
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

        extern "C" __global__ void add_three(const Values* a, const Values* b, const Values* c, Values* y, long long packs)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs) return;
            Values r = a[i], s = b[i], t = c[i];
            for (int j = 0; j < VEC; j++)
            {
                store(&s.v[j], widen(s.v[j]) + widen(t.v[j]));
                store(&r.v[j], widen(r.v[j]) + widen(s.v[j]));
            }
            y[i] = r;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(Add), CudaSource);

    public static Tensor Apply(Tensor a, Tensor b) => new Add().Run(a, b)[0];

    public static Tensor Apply(Tensor a, Tensor b, Tensor c) => new Add().Run(a, b, c)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        ExpectFloat(inputs[0], "a");
        Expect(inputs[1], "b", inputs[0].Type, inputs[0].Shape);
        if (inputs.Length > 2) Expect(inputs[2], "c", inputs[0].Type, inputs[0].Shape);
        return new Frame(inputs, [Allocate(inputs[0], inputs[0].Type, inputs[0].Shape)]);
    }

    protected override void Plain(Frame f)
    {
        var (a, y) = (f.Inputs[0].ToFloats(), f.Outputs[0]);
        if (f.Inputs.Length > 2) y.Store([.. f.Inputs[1].ToFloats().Zip(f.Inputs[2].ToFloats(), (b, c) => b + c)]);
        var rest = (f.Inputs.Length > 2 ? y : f.Inputs[1]).ToFloats();
        for (var i = 0; i < a.Length; i++) a[i] += rest[i];
        y.Store(a);
    }

    protected override void Cpu(Frame f)
    {
        var (a, b, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        var c = f.Inputs.Length > 2 ? f.Inputs[2] : null;
        RowParallel.For(a.Rows, a.Width, (first, last) =>
        {
            var (s, t) = (new float[a.Width], new float[a.Width]);
            for (var row = first; row < last; row++)
            {
                if (c is not null) Sum(b, c, row);
                Sum(a, c is null ? b : y, row);
            }
            void Sum(Tensor one, Tensor other, long row)
            {
                var target = FloatRows.Target(y, row, t);
                TensorPrimitives.Add(FloatRows.Load(one, row, s), FloatRows.Load(other, row, t), target);
                FloatRows.Store(y, row, target);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (a, b, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        if (f.Inputs.Length > 2)
        {
            var (c, all) = (f.Inputs[2], Packs.Of(a.Count, a, b, f.Inputs[2], y));
            Program.Kernel(a.Gpu(), "add_three", all.Options)
                .Launch(all.Blocks(a.Count), Packs.Block, a.Pointer, b.Pointer, c.Pointer, y.Pointer, all.In(a.Count));
            return;
        }
        var packs = Packs.Of(a.Count, a, b, y);
        Program.Kernel(a.Gpu(), "add", packs.Options).Launch(packs.Blocks(a.Count), Packs.Block, a.Pointer, b.Pointer, y.Pointer, packs.In(a.Count));
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        [.. Enumerable.Range(0, f.Inputs.Length).Select(i => f.Needs(i) ? dOut[0]!.Alias() : null)];
}
