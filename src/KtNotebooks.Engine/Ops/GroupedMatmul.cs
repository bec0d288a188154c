using System.Numerics.Tensors;

using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// The matrix products of linear layers on the CPU, grouped by expert: rows [offsets[e], offsets[e+1]) belong to matrix e. A dense layer is one expert.
/// Calls the native kernels where there are any; the managed bodies are the same sums with vectorised dot products. What each computes stands in kt.h.
/// R rows, N outputs, K inputs, r rank. Rows may be F32 or BF16; W may be low-bit;
/// p, q and all parameter gradients are F32.
/// </summary>
internal static unsafe class GroupedMatmul
{
    /// <summary>y = x Wᵀ + scale · (xl Aᵀ) Bᵀ ; p = xl Aᵀ. x, xl [R, K]; W [N, K]; A [r, K]; B [N, r]; p [R, r]; y [R, N].</summary>
    public static void Forward(ReadOnlySpan<int> offsets, Tensor x, Tensor? xl, Matrices w, Matrices? a, Matrices? b, float scale, Tensor? p, Tensor y)
    {
        if (Cpu.IsNative)
        {
            var pointers = new Pointers(w, a, b);
            fixed (int* o = offsets)
            fixed (nint* wp = pointers.W, sp = pointers.Scales, ap = pointers.A, bp = pointers.B)
            {
                Native.Ok(Native.kt_grouped_linear(w.Count, o, w.N, w.K, (void*)x.Pointer, Code(x), (void*)(xl ?? x).Pointer, (void**)wp, w.NativeCode,
                    (void**)sp, a?.N ?? 0, (float**)ap, (float**)bp, scale, p is null ? null : (float*)p.Pointer, (void*)y.Pointer, Code(y)));
            }
            return;
        }
        Each(offsets, w.Count, (e, first, last) =>
        {
            var rows = Floats(x, first, last);
            var product = Product(rows, w.ToFloats(e, x.Type), last - first, w.N, w.K);
            if (a is { } A && b is { } B)
            {
                var low = Product(xl is null ? rows : Floats(xl, first, last), A.ToFloats(e, DType.F32), last - first, A.N, w.K);
                low.CopyTo(p!.Span<float>()[(first * A.N)..]);
                var update = Product(low, B.ToFloats(e, DType.F32), last - first, w.N, A.N);
                TensorPrimitives.MultiplyAdd(update, scale, product, product);
            }
            Store(y, first, product);
        });
    }

    /// <summary>q = scale · dy B ; dx = dy W (+ q A where dxl is null) ; dxl = q A. dy [R, N]; q [R, r]; dx, dxl [R, K]; dx may be null.</summary>
    public static void InputGrad(ReadOnlySpan<int> offsets, Tensor dy, Matrices w, Matrices? a, Matrices? b, float scale, Tensor? q, Tensor? dx, Tensor? dxl)
    {
        if (Cpu.IsNative)
        {
            var pointers = new Pointers(w, a, b);
            fixed (int* o = offsets)
            fixed (nint* wp = pointers.W, sp = pointers.Scales, ap = pointers.A, bp = pointers.B)
            {
                Native.Ok(Native.kt_grouped_linear_dx(w.Count, o, w.N, w.K, (void*)dy.Pointer, Code(dy), (void**)wp, w.NativeCode, (void**)sp, a?.N
                    ?? 0, (float**)ap, (float**)bp, scale, q is null ? null : (float*)q.Pointer, dx is null ? null : (void*)dx.Pointer, dxl is null ? null
                    : (void*)dxl.Pointer, Code((dx ?? dxl)?.Type ?? DType.F32)));
            }
            return;
        }
        Each(offsets, w.Count, (e, first, last) =>
        {
            var rows = last - first;
            var dyRows = Floats(dy, first, last);
            var sum = dx is null ? [] : Product(dyRows, Transposed(w.ToFloats(e, dy.Type), w.N, w.K), rows, w.K, w.N);
            if (a is { } A && b is { } B)
            {
                var low = Product(dyRows, Transposed(B.ToFloats(e, DType.F32), w.N, A.N), rows, A.N, w.N);
                TensorPrimitives.Multiply(low, scale, low);
                low.CopyTo(q!.Span<float>()[(first * A.N)..]);
                if (dxl is not null || dx is not null)
                {
                    var update = Product(low, Transposed(A.ToFloats(e, DType.F32), A.N, w.K), rows, w.K, A.N);
                    if (dxl is not null) Store(dxl, first, update);
                    else TensorPrimitives.Add(sum, update, sum);
                }
            }
            if (dx is not null) Store(dx, first, sum);
        });
    }

    /// <summary>dA = qᵀ xl [r, K] ; dB = scale · dyᵀ p [N, r], per expert.</summary>
    public static void LoraGrad(ReadOnlySpan<int> offsets, Tensor xl, Tensor p, Tensor dy, Tensor q, float scale, Matrices dA, Matrices dB)
    {
        if (Cpu.IsNative)
        {
            var pointers = new Pointers(dA, dA, dB);
            fixed (int* o = offsets)
            fixed (nint* ap = pointers.A, bp = pointers.B)
            {
                Native.Ok(Native.kt_grouped_lora_grad(dA.Count, o, dB.N, dA.K, (void*)xl.Pointer, Code(xl), (float*)p.Pointer, (void*)dy.Pointer, Code(dy),
                    (float*)q.Pointer, dA.N, scale, (float**)ap, (float**)bp));
            }
            return;
        }
        var (r, n, k) = (dA.N, dB.N, dA.K);
        Each(offsets, dA.Count, (e, first, last) =>
        {
            var rows = last - first;
            using var da = dA[e];
            using var db = dB[e];
            da.Store(Outer(q.Span<float>().Slice(first * r, rows * r).ToArray(), Floats(xl, first, last), rows, r, k));
            var gradient = Outer(Floats(dy, first, last), p.Span<float>().Slice(first * r, rows * r).ToArray(), rows, n, r);
            TensorPrimitives.Multiply(gradient, scale, gradient);
            db.Store(gradient);
        });
    }

    /// <summary>dW = dyᵀ x [N, K] F32, per expert.</summary>
    public static void WeightGrad(ReadOnlySpan<int> offsets, Tensor x, Tensor dy, Matrices dW)
    {
        if (Cpu.IsNative)
        {
            var pointers = new Pointers(dW, null, null);
            fixed (int* o = offsets)
            fixed (nint* wp = pointers.W)
            {
                Native.Ok(Native.kt_grouped_weight_grad(dW.Count, o, dW.N, dW.K, (void*)x.Pointer, Code(x), (void*)dy.Pointer, Code(dy), (float**)wp));
            }
            return;
        }
        Each(offsets, dW.Count, (e, first, last) =>
        {
            using var dw = dW[e];
            dw.Store(Outer(Floats(dy, first, last), Floats(x, first, last), last - first, dW.N, dW.K));
        });
    }

    private static void Each(ReadOnlySpan<int> offsets, int experts, Action<int, int, int> body)
    {
        for (var e = 0; e < experts; e++) body(e, offsets[e], offsets[e + 1]);
    }

    /// <summary>x [R, K] · wᵀ, w [N, K] → [R, N].</summary>
    private static float[] Product(float[] x, float[] w, int rows, int n, int k)
    {
        var y = new float[rows * n];
        RowParallel.For(rows, (long)n * k, (first, last) =>
        {
            for (var i = (int)first; i < last; i++)
                for (var j = 0; j < n; j++) y[(i * n) + j] = TensorPrimitives.Dot(x.AsSpan(i * k, k), w.AsSpan(j * k, k));
        });
        return y;
    }

    /// <summary>aᵀ b over rows: a [R, n], b [R, k] → [n, k].</summary>
    private static float[] Outer(float[] a, float[] b, int rows, int n, int k)
    {
        var y = new float[n * k];
        RowParallel.For(n, (long)rows * k, (first, last) =>
        {
            for (var j = (int)first; j < last; j++)
            {
                var target = y.AsSpan(j * k, k);
                for (var i = 0; i < rows; i++) TensorPrimitives.MultiplyAdd(b.AsSpan(i * k, k), a[(i * n) + j], target, target);
            }
        });
        return y;
    }

    private static float[] Transposed(float[] w, int n, int k)
    {
        var t = new float[w.Length];
        for (var i = 0; i < n; i++)
            for (var j = 0; j < k; j++) t[(j * n) + i] = w[(i * k) + j];
        return t;
    }

    private static float[] Floats(Tensor rows, int first, int last)
    {
        var width = rows.Width;
        var values = new float[(last - first) * width];
        for (var i = first; i < last; i++)
        {
            var target = values.AsSpan((i - first) * width, width);
            var row = FloatRows.Load(rows, i, target);
            if (!row.Overlaps(target)) row.CopyTo(target);
        }
        return values;
    }

    private static void Store(Tensor rows, int first, float[] values)
    {
        var width = rows.Width;
        for (var i = 0; i < values.Length / width; i++) FloatRows.Store(rows, first + i, values.AsSpan(i * width, width));
    }

    private static int Code(Tensor tensor) => Code(tensor.Type);

    private static int Code(DType type) => type switch
    {
        DType.F32 => 0,
        DType.BF16 => 1,
        _ => throw new ArgumentException($"[GroupedMatmul] type {type} is not a float type"),
    };

    /// <summary>Addresses of the matrices, in arrays that the callers pin.</summary>
    private readonly ref struct Pointers
    {
        public Pointers(Matrices w, Matrices? a, Matrices? b)
        {
            W = w.Pointers();
            Scales = w.ScalesPointers();
            A = a?.Pointers();
            B = b?.Pointers();
        }

        public nint[]? W { get; }

        public nint[]? Scales { get; }

        public nint[]? A { get; }

        public nint[]? B { get; }
    }
}
