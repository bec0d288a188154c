using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>a = x[..., :n], b = x[..., n:]. Backward puts them side by side again; a missing gradient counts as zero.</summary>
public sealed class SplitColumns(int n) : Op
{
    // One block a row; a and b are counts of packs.
    private const string CudaSource = """
        typedef Pack<T, VEC> Values;

        extern "C" __global__ void split_columns(const Values* x, Values* left, Values* right, int a, int b)
        {
            const Values* X = x + blockIdx.x * (long long)(a + b);
            for (int i = threadIdx.x; i < a + b; i += blockDim.x)
            {
                if (i < a) left[blockIdx.x * (long long)a + i] = X[i];
                else right[blockIdx.x * (long long)b + i - a] = X[i];
            }
        }

        extern "C" __global__ void join_columns(const Values* left, const Values* right, Values* x, int a, int b)
        {
            Values* X = x + blockIdx.x * (long long)(a + b);
            for (int i = threadIdx.x; i < a + b; i += blockDim.x)
                X[i] = i < a ? left[blockIdx.x * (long long)a + i] : right[blockIdx.x * (long long)b + i - a];
        }
        """;

    private static readonly CudaProgram Program = new(nameof(SplitColumns), CudaSource);

    public static (Tensor A, Tensor B) Apply(Tensor x, int n)
    {
        var parts = new SplitColumns(n).Run(x);
        return (parts[0], parts[1]);
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        var x = inputs[0];
        ExpectFloat(x, "x");
        if (n <= 0 || n >= x.Width) throw Wrong($"n must be in 1 … {x.Width - 1}, the width of {x}, but is {n}");
        return new Frame(inputs, [Allocate(x, x.Type, [.. x.Shape[..^1], n]), Allocate(x, x.Type, [.. x.Shape[..^1], x.Width - n])]);
    }

    protected override void Plain(Frame f)
    {
        Columns.Copy(f.Inputs[0], 0, f.Outputs[0], 0, n);
        Columns.Copy(f.Inputs[0], n, f.Outputs[1], 0, f.Outputs[1].Width);
    }

    protected override void Cuda(Frame f)
    {
        var (x, a, b) = (f.Inputs[0], f.Outputs[0], f.Outputs[1]);
        Launch("split_columns", x, a, b, x.Pointer, a.Pointer, b.Pointer);
    }

    private static void Launch(string entry, Tensor x, Tensor a, Tensor b, nint first, nint second, nint third)
    {
        var packs = Packs.Of(a.Width | b.Width, x, a, b);
        Program.Kernel(x.Gpu(), entry, packs.Options)
            .Launch(x.Rows, packs.Threads(x.Width), first, second, third, (int)packs.In(a.Width), (int)packs.In(b.Width));
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var x = f.Inputs[0];
        var zeroA = dOut[0] is null ? Tensor.Zeros(x.Type, x.Device, f.Outputs[0].Shape) : null;
        var zeroB = dOut[1] is null ? Tensor.Zeros(x.Type, x.Device, f.Outputs[1].Shape) : null;
        using (zeroA)
        using (zeroB) return [new Grad().Run(dOut[0] ?? zeroA!, dOut[1] ?? zeroB!)[0]];
    }

    /// <summary>Inputs da, db; output dx = [da, db].</summary>
    private sealed class Grad : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) =>
            new(inputs, [Allocate(inputs[0], inputs[0].Type, [.. inputs[0].Shape[..^1], inputs[0].Width + inputs[1].Width])]);

        protected override void Plain(Frame f)
        {
            Columns.Copy(f.Inputs[0], 0, f.Outputs[0], 0, f.Inputs[0].Width);
            Columns.Copy(f.Inputs[1], 0, f.Outputs[0], f.Inputs[0].Width, f.Inputs[1].Width);
        }

        protected override void Cuda(Frame f)
        {
            var (da, db, dx) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
            Launch("join_columns", dx, da, db, da.Pointer, db.Pointer, dx.Pointer);
        }
    }
}

/// <summary>Rectangles of host tensors, byte for byte.</summary>
internal static unsafe class Columns
{
    /// <summary>target[:, to … to+width) = source[:, from … from+width), all rows. Same type.</summary>
    public static void Copy(Tensor source, int from, Tensor target, int to, int width)
    {
        var size = source.Type.Size();
        var (s, t) = (source.Pointer + ((nint)from * size), target.Pointer + ((nint)to * size));
        var (sourceStride, targetStride) = ((long)source.Width * size, (long)target.Width * size);
        long bytes = (long)width * size;
        RowParallel.For(source.Rows, width, (first, last) =>
        {
            for (var row = first; row < last; row++) System.Buffer.MemoryCopy((byte*)s + (row * sourceStride), (byte*)t + (row * targetStride), bytes, bytes);
        });
    }
}
