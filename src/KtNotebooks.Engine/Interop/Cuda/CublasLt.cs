using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace KtNotebooks.Interop.Cuda;

/// <summary>What is used of cuBLASLt, with its enum values (cublasLt.h, library_types.h).</summary>
internal static unsafe partial class CublasLt
{
    public const int ComputeF32 = 68; // CUBLAS_COMPUTE_32F: true F32 products, no TF32
    public const int TypeF32 = 0; // CUDA_R_32F
    public const int TypeBF16 = 14; // CUDA_R_16BF
    public const int DescTransA = 3, DescTransB = 4;
    public const int PreferenceWorkspace = 1, PreferenceAlignmentA = 5;
    private const string Library = CudaLibraries.CublasLt;

    /// <exception cref="KtNativeException">Any status but success.</exception>
    public static void Ok(int status, [CallerArgumentExpression(nameof(status))] string call = "")
    {
        if (status != 0) throw new KtNativeException("cuBLASLt", call, status, Marshal.PtrToStringUTF8((nint)cublasLtGetStatusString(status)) ?? "no text");
    }

    [LibraryImport(Library)] internal static partial nuint cublasLtGetVersion();

    [LibraryImport(Library)] internal static partial byte* cublasLtGetStatusString(int status);

    [LibraryImport(Library)] internal static partial int cublasLtCreate(nint* handle);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulDescCreate(nint* desc, int computeType, int scaleType);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulDescSetAttribute(nint desc, int attribute, void* value, nuint bytes);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulDescDestroy(nint desc);

    [LibraryImport(Library)] internal static partial int cublasLtMatrixLayoutCreate(nint* layout, int type, ulong rows, ulong columns, long stride);

    [LibraryImport(Library)] internal static partial int cublasLtMatrixLayoutDestroy(nint layout);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulPreferenceCreate(nint* preference);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulPreferenceSetAttribute(nint preference, int attribute, void* value, nuint bytes);

    [LibraryImport(Library)] internal static partial int cublasLtMatmulPreferenceDestroy(nint preference);

    [LibraryImport(Library)]
    internal static partial int cublasLtMatmulAlgoGetHeuristic(nint handle, nint desc, nint a, nint b, nint c, nint d, nint preference, int requested,
        Heuristic* results, int* returned);

    [LibraryImport(Library)]
    internal static partial int cublasLtMatmul(nint handle, nint desc, float* alpha, nint a, nint layoutA, nint b, nint layoutB, float* beta,
        nint c, nint layoutC, nint d, nint layoutD, Algorithm* algorithm, nint workspace, nuint workspaceBytes, nint stream);

    [InlineArray(8)]
    internal struct Algorithm
    {
        private ulong _data;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct Heuristic
    {
        public Algorithm Algorithm;
        public nuint WorkspaceBytes;
        public int Status;
        public float Waves;
        private readonly long _reserved0, _reserved1;
    }
}
