using System.Collections.Concurrent;
using System.Runtime.InteropServices;

using static KtNotebooks.Interop.Cuda.CublasLt;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// One kind of product D [M, N] = alpha · op(A) op(B) (+ D), all row-major: A is [M, K], or [K, M] when transposed; B is [K, N], or [N, K] when transposed.
/// A and B are both F32 or both BF16; D is F32, or BF16 when they are. Sums are F32.
/// </summary>
internal readonly record struct MatmulShape(int M, int N, int K, bool TransposeA, bool TransposeB, bool InputsBF16, bool OutputBF16);

/// <summary>Matrix products on the compute stream by cuBLASLt. Its choice of algorithm is asked once for each shape and alignment and kept.</summary>
internal static unsafe class CudaMatmul
{
    private const int MaxWorkspace = 32 << 20;

    /// <summary>
    /// The most that a product of F32 gets beside its operands. Its algorithms ask for some even where the matrices are small, which BF16's do not: without a
    /// limit a plan of 39 MB was 2 % too low on an H200.
    /// </summary>
    public const int F32Workspace = 1 << 20;

    /// <summary>Token counts differ from step to step, so the list of shapes would grow for ever; asking again costs some 50 µs.</summary>
    private const int MaxPlans = 4096;

    private static readonly ConcurrentDictionary<int, nint> Handles = new();
    private static readonly ConcurrentDictionary<(int Device, MatmulShape Shape, uint Alignments), Plan> Plans = new();

    /// <summary>Algorithms asked for so far; stands still in steady state.</summary>
    public static int PlanCount => Plans.Count;

    public static void Run(CudaDevice device, in MatmulShape shape, float alpha, nint a, nint b, bool add, nint d)
    {
        if (shape.M == 0 || shape.N == 0) return;
        if (shape.K == 0)
        {
            if (!add) device.Clear(d, (long)shape.M * shape.N * (shape.OutputBF16 ? 2 : 4));
            return;
        }
        device.Use();
        var handle = Handles.GetOrAdd(device.Index, static _ =>
        {
            nint made;
            Ok(cublasLtCreate(&made));
            return made;
        });
        var key = (device.Index, shape, Alignment(a) | (Alignment(b) << 8) | (Alignment(d) << 16));
        if (!Plans.TryGetValue(key, out var plan))
        {
            if (Plans.Count >= MaxPlans) Plans.Clear();
            plan = Plans.GetOrAdd(key, new Plan(handle, shape, Alignment(a), Alignment(b), Alignment(d)));
        }
        // Stream-ordered: the workspace may be reused by the next op at once.
        var workspace = plan.WorkspaceBytes == 0 ? 0 : device.Pool.Allocate((long)plan.WorkspaceBytes);
        var beta = add ? 1f : 0f;
        plan.Run(handle, &alpha, a, b, &beta, d, workspace, device.Compute.Pointer);
        if (workspace != 0) device.Pool.Free(workspace);
    }

    /// <summary>log2 of the address's alignment, at most 256 bytes.</summary>
    private static uint Alignment(nint pointer) => Math.Min(8, (uint)nint.TrailingZeroCount(pointer));

    /// <summary>
    /// cuBLASLt is column-major, where a row-major matrix is its transpose: it is asked for Dᵀ [N, M] = op(B)ᵀ op(A)ᵀ, with B first. A plan dropped from
    /// the list while another thread runs it is kept by that thread; its descriptors go with the finalizer.
    /// </summary>
    private sealed class Plan : SafeHandle
    {
        private readonly nint _first, _second, _output;
        private Heuristic _choice;

        public Plan(nint handle, in MatmulShape s, uint alignA, uint alignB, uint alignD)
            : base(0, ownsHandle: true)
        {
            var (input, output) = (s.InputsBF16 ? TypeBF16 : TypeF32, s.OutputBF16 ? TypeBF16 : TypeF32);
            nint desc, first, second, result;
            Ok(cublasLtMatmulDescCreate(&desc, ComputeF32, TypeF32));
            SetHandle(desc);
            int transposeFirst = s.TransposeB ? 1 : 0, transposeSecond = s.TransposeA ? 1 : 0;
            Ok(cublasLtMatmulDescSetAttribute(desc, DescTransA, &transposeFirst, sizeof(int)));
            Ok(cublasLtMatmulDescSetAttribute(desc, DescTransB, &transposeSecond, sizeof(int)));
            Ok(s.TransposeB ? cublasLtMatrixLayoutCreate(&first, input, (ulong)s.K, (ulong)s.N, s.K)
                : cublasLtMatrixLayoutCreate(&first, input, (ulong)s.N, (ulong)s.K, s.N));
            Ok(s.TransposeA ? cublasLtMatrixLayoutCreate(&second, input, (ulong)s.M, (ulong)s.K, s.M)
                : cublasLtMatrixLayoutCreate(&second, input, (ulong)s.K, (ulong)s.M, s.K));
            Ok(cublasLtMatrixLayoutCreate(&result, output, (ulong)s.N, (ulong)s.M, s.N));
            (_first, _second, _output) = (first, second, result);
            Choose(handle, [1u << (int)alignB, 1u << (int)alignA, 1u << (int)alignD, 1u << (int)alignD], s);
        }

        public override bool IsInvalid => handle == 0;

        public nuint WorkspaceBytes => _choice.WorkspaceBytes;

        public void Run(nint library, float* alpha, nint a, nint b, float* beta, nint d, nint workspace, nint stream)
        {
            fixed (Algorithm* algorithm = &_choice.Algorithm)
                Ok(cublasLtMatmul(library, handle, alpha, b, _first, a, _second, beta, d, _output, d, _output, algorithm, workspace, WorkspaceBytes, stream));
        }

        protected override bool ReleaseHandle()
        {
            foreach (var layout in (nint[])[_first, _second, _output])
                if (layout != 0) _ = cublasLtMatrixLayoutDestroy(layout);
            return cublasLtMatmulDescDestroy(handle) == 0;
        }

        private void Choose(nint library, ReadOnlySpan<uint> alignments, in MatmulShape s)
        {
            nint preference;
            var workspace = (ulong)(s.InputsBF16 ? MaxWorkspace : F32Workspace);
            Ok(cublasLtMatmulPreferenceCreate(&preference));
            try
            {
                Ok(cublasLtMatmulPreferenceSetAttribute(preference, PreferenceWorkspace, &workspace, sizeof(ulong)));
                for (var i = 0; i < alignments.Length; i++)
                {
                    var bytes = alignments[i];
                    Ok(cublasLtMatmulPreferenceSetAttribute(preference, PreferenceAlignmentA + i, &bytes, sizeof(uint)));
                }
                int found;
                Heuristic choice;
                Ok(cublasLtMatmulAlgoGetHeuristic(library, handle, _first, _second, _output, _output, preference, 1, &choice, &found));
                if (found == 0) throw new NotSupportedException($"cuBLASLt has no algorithm for {s}");
                _choice = choice;
            }
            finally
            {
                _ = cublasLtMatmulPreferenceDestroy(preference);
            }
        }
    }
}
