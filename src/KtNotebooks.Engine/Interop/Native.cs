using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

[assembly: DisableRuntimeMarshalling]

namespace KtNotebooks.Interop;

/// <summary>The exports of libktnative, under the names of kt.h, which says what each does, its shapes, and what it overwrites.
/// Every one that returns a status goes through <see cref="Ok"/>; ask <see cref="Cpu.IsNative"/> first.</summary>
internal static unsafe partial class Native
{
    internal const string Library = "ktnative";
    internal const int AbiVersion = 9;
    internal const int F32 = 0;
    internal const int BF16 = 1;
    internal const int Tiled = 0x100;

    [LibraryImport(Library)]
    internal static partial int kt_abi_version();

    [LibraryImport(Library)]
    internal static partial byte* kt_last_error();

    [LibraryImport(Library)]
    internal static partial byte* kt_cpu_variants();

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int kt_init(string? variant, int threads);

    [LibraryImport(Library)]
    internal static partial byte* kt_cpu_variant();

    [LibraryImport(Library)]
    internal static partial int kt_threads();

    [LibraryImport(Library)]
    internal static partial void* kt_begin(long count, delegate* unmanaged<void*, long, void> task, void* context);

    [LibraryImport(Library), SuppressGCTransition]
    internal static partial long kt_next(void* job);

    [LibraryImport(Library)]
    internal static partial void kt_end(void* job);

    [LibraryImport(Library)]
    internal static partial void kt_set_row_invariant(int on);

    [LibraryImport(Library, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int kt_watch(void* begin, long bytes, string line);

    [LibraryImport(Library)]
    internal static partial void kt_unwatch(void* begin);

    [LibraryImport(Library)]
    internal static partial int kt_spin(int type, long rounds, double* flop);

    [LibraryImport(Library)]
    internal static partial int kt_read(void* data, long bytes, int places);

    [LibraryImport(Library)]
    internal static partial int kt_gemm(int transA, int transB, long M, long N, long K, float alpha, void* A, long lda, int typeA,
        void* B, long ldb, int typeB, float beta, void* C, long ldc, int typeC);

    [LibraryImport(Library)]
    internal static partial int kt_grouped_linear(int E, int* offsets, long N, long K, void* x, int typeX, void* xl, void** W, int typeW,
        void** scalesW, int r, float** loraA, float** loraB, float scale, float* p, void* y, int typeY);

    [LibraryImport(Library)]
    internal static partial int kt_grouped_linear_dx(int E, int* offsets, long N, long K, void* dy, int typeDy, void** W, int typeW,
        void** scalesW, int r, float** loraA, float** loraB, float scale, float* q, void* dx, void* dxl, int typeDx);

    [LibraryImport(Library)]
    internal static partial int kt_grouped_lora_grad(int E, int* offsets, long N, long K, void* xl, int typeX, float* p, void* dy, int typeDy,
        float* q, int r, float scale, float** dA, float** dB);

    [LibraryImport(Library)]
    internal static partial int kt_grouped_weight_grad(int E, int* offsets, long N, long K, void* x, int typeX, void* dy, int typeDy, float** dW);

    [LibraryImport(Library)]
    internal static partial int kt_dequantize(int type, void* data, void* scales, long K, long row, long rows, void* @out, int typeOut);

    [LibraryImport(Library)]
    internal static partial int kt_multiplies_tiles();

    [LibraryImport(Library)]
    internal static partial int kt_tile(long N, long K, void* rows, void* tiles);

    [LibraryImport(Library)]
    internal static partial int kt_experts_forward(Experts* experts, void* x, float* weights, void* g, void* u, float* pGate, float* pUp, float* pDown,
        void* rows, void* y, int typeY);

    [LibraryImport(Library)]
    internal static partial int kt_experts_grad(Experts* experts, void* dy, void* x, float* weights, void* g, void* u, float* pGate, float* pUp,
        float* pDown, ExpertsBackward* work, void* dx, int typeDx, float* dWeights);

    [LibraryImport(Library)]
    internal static partial int kt_attention(int nseq, int* startsQ, int* startsK, int H, int Hk, int D, int Dv, int window, float scale,
        void* q, void* k, void* v, int type, void* @out, float* lse);

    [LibraryImport(Library)]
    internal static partial int kt_attention_cached(int nseq, int* startsQ, int* counts, int* firstPage, int* pages, int pageRows, int H, int Hk, int D,
        int Dv, int window, float scale, void* q, void* k, long pitchK, void* v, long pitchV, int type, void* @out, float* lse);

    [LibraryImport(Library)]
    internal static partial int kt_attention_grad(int nseq, int* startsQ, int* startsK, int H, int Hk, int D, int Dv, int window, float scale,
        void* q, void* k, void* v, void* @out, float* lse, void* dout, int type, void* dq, void* dk, void* dv);

    /// <summary>kt_projection.</summary>
    internal struct Projection
    {
        public nint* W, ScalesW, A, B;
        public int TypeW, Rank;
    }

    /// <summary>kt_experts.</summary>
    internal struct Experts
    {
        public int Count, TopK;
        public long T, D, I;
        public int* Offsets, Routes;
        public Projection Gate, Up, Down;
        public float Scale;
    }

    /// <summary>kt_experts_backward.</summary>
    internal struct ExpertsBackward
    {
        public void* Rows, H, Dh, Du;
        public float* QGate, QUp, QDown;
        public nint* DAGate, DBGate, DAUp, DBUp, DADown, DBDown;
    }

    /// <summary>Throws <see cref="KtNativeException"/> with the library's own text unless <paramref name="status"/> is 0.</summary>
    internal static void Ok(int status, [CallerArgumentExpression(nameof(status))] string call = "")
    {
        if (status != 0)
            throw new KtNativeException(Library, call, status, Text(kt_last_error()));
    }

    internal static string Text(byte* text) => Marshal.PtrToStringUTF8((nint)text) ?? "";
}
