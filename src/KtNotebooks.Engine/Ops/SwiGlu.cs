using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>h = silu(g) · u, silu(g) = g · σ(g). g, u, h [..., I] alike, F32 or BF16. Shazeer 2020.</summary>
public sealed class SwiGlu : Op
{
    private const string CudaSource = """
        typedef Pack<T, VEC> Values;

        extern "C" __global__ void swiglu(const Values* g, const Values* u, Values* h, long long packs)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs) return;
            Values a = g[i], b = u[i];
            for (int j = 0; j < VEC; j++)
            {
                float gate = widen(a.v[j]);
                store(&a.v[j], gate / (1.0f + expf(-gate)) * widen(b.v[j]));
            }
            h[i] = a;
        }

        extern "C" __global__ void swiglu_grad(const Values* dh, const Values* g, const Values* u, Values* dg, Values* du, long long packs)
        {
            long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
            if (i >= packs) return;
            Values d = dh[i], a = g[i], b = u[i];
            for (int j = 0; j < VEC; j++)
            {
                float gate = widen(a.v[j]), up = widen(b.v[j]), dy = widen(d.v[j]), sigmoid = 1.0f / (1.0f + expf(-gate));
                store(&a.v[j], dy * up * sigmoid * (1.0f + gate * (1.0f - sigmoid)));
                store(&b.v[j], dy * gate * sigmoid);
            }
            dg[i] = a;
            du[i] = b;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(SwiGlu), CudaSource);

    public static Tensor Apply(Tensor g, Tensor u) => new SwiGlu().Run(g, u)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        ExpectFloat(inputs[0], "g");
        Expect(inputs[1], "u", inputs[0].Type, inputs[0].Shape);
        return new Frame(inputs, [Allocate(inputs[0], inputs[0].Type, inputs[0].Shape)]);
    }

    protected override void Plain(Frame f)
    {
        var (g, u) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats());
        for (var i = 0; i < g.Length; i++) u[i] = (float)(g[i] / (1 + Math.Exp(-g[i])) * u[i]);
        f.Outputs[0].Store(u);
    }

    protected override void Cpu(Frame f) => Forward(f.Inputs[0], f.Inputs[1], f.Outputs[0]);

    protected override void Cuda(Frame f) => ForwardOnGpu(f.Inputs[0], f.Inputs[1], f.Outputs[0]);

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [.. new Grad().Run(dOut[0]!, f.Inputs[0], f.Inputs[1])];

    /// <summary>h = silu(g) · u on a card; h may be g or u.</summary>
    internal static void ForwardOnGpu(Tensor g, Tensor u, Tensor h)
    {
        var packs = Packs.Of(g.Count, g, u, h);
        Program.Kernel(g.Gpu(), "swiglu", packs.Options).Launch(packs.Blocks(g.Count), Packs.Block, g.Pointer, u.Pointer, h.Pointer, packs.In(g.Count));
    }

    internal static void Forward(Tensor g, Tensor u, Tensor h) => RowParallel.For(g.Rows, g.Width * 4L, (first, last) =>
    {
        var (a, b, s) = (new float[g.Width], new float[g.Width], new float[g.Width]);
        for (var row = first; row < last; row++)
        {
            var gate = FloatRows.Load(g, row, a);
            TensorPrimitives.Sigmoid(gate, s);
            TensorPrimitives.Multiply(gate, s, s);
            TensorPrimitives.Multiply(s, FloatRows.Load(u, row, b), s);
            FloatRows.Store(h, row, s);
        }
    });

    /// <summary>dg = dh · u · σ(g) · (1 + g · (1 − σ(g))) ; du = dh · silu(g), times a weight per row where given. All [R, I].</summary>
    internal static void Backward(Tensor dh, Tensor g, Tensor u, Tensor dg, Tensor du, float[]? rowWeights = null) =>
        RowParallel.For(g.Rows, g.Width * 6L, (first, last) =>
    {
        var I = g.Width;
        var (a, b, c, s, t) = (new float[I], new float[I], new float[I], new float[I], new float[I]);
        for (var row = first; row < last; row++)
        {
            var gate = FloatRows.Load(g, row, a);
            var dRow = FloatRows.Load(dh, row, c);
            if (dh.Type == DType.F32) dRow.CopyTo(c); // c is scaled below: never the caller's row
            if (rowWeights is not null) TensorPrimitives.Multiply(c, rowWeights[row], c);
            TensorPrimitives.Sigmoid(gate, s);
            TensorPrimitives.Multiply(gate, s, t); // silu
            var up = FloatRows.Load(u, row, b);
            for (var i = 0; i < I; i++)
            {
                s[i] = c[i] * up[i] * (s[i] + (t[i] * (1 - s[i])));
                t[i] *= c[i];
            }
            FloatRows.Store(dg, row, s);
            FloatRows.Store(du, row, t);
        }
    });

    /// <summary>Inputs dh, g, u; outputs dg, du.</summary>
    private sealed class Grad : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) =>
            new(inputs, [Allocate(inputs[1], inputs[1].Type, inputs[1].Shape), Allocate(inputs[1], inputs[1].Type, inputs[1].Shape)]);

        protected override void Plain(Frame f)
        {
            var (dh, g, u) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats());
            for (var i = 0; i < g.Length; i++)
            {
                var sigmoid = 1 / (1 + Math.Exp(-g[i]));
                var (gate, up) = (g[i], u[i]);
                g[i] = (float)(dh[i] * up * sigmoid * (1 + (gate * (1 - sigmoid))));
                u[i] = (float)(dh[i] * gate * sigmoid);
            }
            f.Outputs[0].Store(g);
            f.Outputs[1].Store(u);
        }

        protected override void Cpu(Frame f) => SwiGlu.Backward(f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0], f.Outputs[1]);

        protected override void Cuda(Frame f)
        {
            var (dh, g, u, dg, du) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0], f.Outputs[1]);
            var packs = Packs.Of(g.Count, g, dh, u, dg, du);
            Program.Kernel(g.Gpu(), "swiglu_grad", packs.Options)
                .Launch(packs.Blocks(g.Count), Packs.Block, dh.Pointer, g.Pointer, u.Pointer, dg.Pointer, du.Pointer, packs.In(g.Count));
        }
    }
}
