using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// c [M, N] = alpha · a bᵀ (+ c) of a few rows a [M, K] on a card, b [N, K]: bound by reading b once, which a warp a row of b does sooner than a tiled product
/// that fills a hundredth of its tile. a and b of one float type, c of either;
/// sums in F32, rounded once.
/// </summary>
internal static class RowProduct
{
    /// <summary>From the next number of rows on, cuBLASLt.</summary>
    public const int MaxRows = 4;

    private const int Warps = 8;

    private const string Source = """
        constexpr int VEC = 16 / sizeof(T);
        typedef Pack<T, VEC> Values;

        // A warp a row of b.
        extern "C" __global__ void row_product(const T* a, const T* b, OTHER* c, int M, int N, int K, float alpha, int add)
        {
            int n = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
            if (n >= N) return;
            const T* row = b + (long long)n * K;
            float sum[ROWS];
            for (int i = 0; i < ROWS; i++) sum[i] = 0;
            // Rounds of loads that depend on no branch: behind the end the last piece is read again, and not added.
            for (int round = 0; round < K; round += 4 * 32 * VEC)
        #pragma unroll
                for (int piece = 0; piece < 4; piece++)
                {
                    int k = round + (piece * 32 + lane) * VEC, at = min(k, K - VEC);
                    Values w = *(const Values*)(row + at);
                    for (int i = 0; i < ROWS; i++)
                        if (i < M)
                        {
                            Values x = *(const Values*)(a + (long long)i * K + at);
                            for (int j = 0; j < VEC; j++) sum[i] += k < K ? widen(w.v[j]) * widen(x.v[j]) : 0.0f;
                        }
                }
            for (int i = 0; i < ROWS; i++)
                if (i < M)
                {
                    for (int offset = 16; offset > 0; offset >>= 1) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], offset);
                    OTHER* target = c + (long long)i * N + n;
                    if (lane == 0) store(target, alpha * sum[i] + (add ? widen(*target) : 0.0f));
                }
        }
        """;

    private static readonly CudaProgram Program = new(nameof(RowProduct), Source);

    private static readonly string[] Options = [.. Enumerable.Range(0, 8)
        .Select(i => $"-DTYPE={Name(i & 1)} -DOTHER={Name(i & 2)} -DROWS={((i & 4) != 0 ? MaxRows : 1)}")];

    /// <summary>a [M, K], b [N, K].</summary>
    public static bool Suits(Tensor a, Tensor b) =>
        a.Rows <= MaxRows && a.Width % (16 / a.Type.Size()) == 0 && (a.Pointer | b.Pointer) % 16 == 0;

    /// <summary>As <see cref="DeviceMatmul.Run"/> checks it.</summary>
    public static void Run(Tensor a, Tensor b, Tensor c, float alpha, bool add)
    {
        var options = Options[(a.Type == DType.BF16 ? 1 : 0) | (c.Type == DType.BF16 ? 2 : 0) | (a.Rows > 1 ? 4 : 0)];
        Program.Kernel(c.Gpu(), "row_product", options)
            .Launch((b.Rows + Warps - 1) / Warps, Warps * 32, a.Pointer, b.Pointer, c.Pointer, a.Rows, b.Rows, a.Width, alpha, add ? 1 : 0);
    }

    private static string Name(int bf16) => bf16 != 0 ? "bf16" : "float";
}
