using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y[i] = x[rows[i]]. x [R, D]; rows: n distinct row numbers; y [n, D]. dx[rows[i]] = dy[i], zero elsewhere. The head computes logits only for rows that
/// have a target.
/// </summary>
public sealed class GatherRows(int[] rows) : Op
{
    private const string CudaSource = """
        typedef Pack<T, VEC> Values;

        // target[rows[i]] = source[i], one block a row.
        extern "C" __global__ void scatter_rows(const Values* source, const int* rows, Values* target, int width)
        {
            const Values* from = source + (long long)blockIdx.x * width;
            Values* to = target + (long long)rows[blockIdx.x] * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
        }
        """;

    private static readonly CudaProgram Program = new(nameof(GatherRows), CudaSource);

    public static Tensor Apply(Tensor x, int[] rows) => new GatherRows(rows).Run(x)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var x = inputs[0];
        foreach (var row in rows)
            if (row < 0 || row >= x.Rows) throw Wrong($"row {row} is not in {x}");
        return new Frame(inputs, [Allocate(x, x.Type, rows.Length, x.Width)]);
    }

    protected override void Plain(Frame f) => Rows.Gather(f.Inputs[0], rows, f.Outputs[0]);

    protected override void Cuda(Frame f)
    {
        using var at = Memory.Place(rows, f.Inputs[0].Device);
        RouteKernels.Gather(f.Inputs[0], at, 0, rows.Length, 1, f.Outputs[0]);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [.. new Grad(rows, f.Inputs[0].Shape.ToArray()).Run(dOut[0]!)];

    private sealed class Grad(int[] rows, long[] shape) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) => new(inputs, [Allocate(inputs[0], inputs[0].Type, shape)]);

        protected override void Plain(Frame f)
        {
            Memory.Clear(f.Outputs[0]);
            Rows.Scatter(f.Inputs[0], rows, f.Outputs[0]);
        }

        protected override void Cuda(Frame f)
        {
            var (dy, dx) = (f.Inputs[0], f.Outputs[0]);
            Memory.Clear(dx);
            using var at = Memory.Place(rows, dx.Device);
            var packs = Packs.Of(dx.Width, dy, dx);
            Program.Kernel(dx.Gpu(), "scatter_rows", packs.Options)
                .Launch(rows.Length, packs.Threads(dx.Width), dy.Pointer, at.Pointer, dx.Pointer, (int)packs.In(dx.Width));
        }
    }
}

/// <summary>Rows of host tensors, byte for byte.</summary>
internal static unsafe class Rows
{
    /// <summary>target[i] = source[rows[i]].</summary>
    public static void Gather(Tensor source, ReadOnlyMemory<int> rows, Tensor target)
    {
        long bytes = (long)source.Width * source.Type.Size();
        var (s, t) = (source.Pointer, target.Pointer);
        RowParallel.For(rows.Length, source.Width, (first, last) =>
        {
            for (var i = first; i < last; i++) System.Buffer.MemoryCopy((byte*)s + (rows.Span[(int)i] * bytes), (byte*)t + (i * bytes), bytes, bytes);
        });
    }

    /// <summary>target[rows[i]] = source[i]; rows are distinct.</summary>
    public static void Scatter(Tensor source, ReadOnlyMemory<int> rows, Tensor target)
    {
        long bytes = (long)source.Width * source.Type.Size();
        var (s, t) = (source.Pointer, target.Pointer);
        RowParallel.For(rows.Length, source.Width, (first, last) =>
        {
            for (var i = first; i < last; i++) System.Buffer.MemoryCopy((byte*)s + (i * bytes), (byte*)t + (rows.Span[(int)i] * bytes), bytes, bytes);
        });
    }
}
