using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y [T, N] F32 = x [T, K] Wᵀ of few rows x, F32 or BF16, and a narrow W [N, K] F32 on a card: a router in inference, whose product a library spreads over a
/// few processors, behind a kernel that widens x. A block an output of up to eight rows; a row's sums do not depend on the others.
/// </summary>
internal static class NarrowProduct
{
    private const int MaxRows = 64, MaxOutputs = 1024, Warps = 8;

    private const string Source = """
        // grid: (N, T / ROWS rounded up), 8 warps, each an eighth of K, eight elements a lane.
        extern "C" __global__ void narrow_product(const T* x, const float* w, float* y, int rows, int N, int K)
        {
            __shared__ float partial[8][ROWS];
            int n = blockIdx.x, first = blockIdx.y * ROWS, count = min(ROWS, rows - first), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
            float sum[ROWS];
        #pragma unroll
            for (int i = 0; i < ROWS; i++) sum[i] = 0;
            for (int k = threadIdx.x * 8; k < K; k += 8 * 256)
            {
                Pack<float, 4> low = *(const Pack<float, 4>*)(w + (long long)n * K + k), high = *(const Pack<float, 4>*)(w + (long long)n * K + k + 4);
        #pragma unroll
                for (int i = 0; i < ROWS; i++)
                {
                    Pack<T, 8> v = *(const Pack<T, 8>*)(x + (long long)(first + min(i, count - 1)) * K + k);
                    for (int j = 0; j < 4; j++) sum[i] = fmaf(low.v[j], widen(v.v[j]), sum[i]);
                    for (int j = 0; j < 4; j++) sum[i] = fmaf(high.v[j], widen(v.v[4 + j]), sum[i]);
                }
            }
        #pragma unroll
            for (int i = 0; i < ROWS; i++)
            {
                float all = warp_sum(sum[i]);
                if (lane == 0) partial[warp][i] = all;
            }
            __syncthreads();
            int i = threadIdx.x;
            if (i >= count) return;
            float all = 0;
            for (int part = 0; part < 8; part++) all += partial[part][i];
            y[(long long)(first + i) * N + n] = all;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(NarrowProduct), Source);

    public static bool Suits(Tensor x, Tensor w, Tensor y) => x.Rows <= MaxRows && w.Type == DType.F32 && w.Dim(0) <= MaxOutputs && y.Type == DType.F32
        && w.Width % 8 == 0 && w.Pointer % 16 == 0 && x.Pointer % (8 * x.Type.Size()) == 0;

    public static void Run(Tensor x, Tensor w, Tensor y)
    {
        var rows = x.Rows > 1 ? 8 : 1;
        Program.Kernel(x.Gpu(), "narrow_product", Options(x.Type == DType.BF16, rows > 1)).Launch((w.Dim(0), (x.Rows + rows - 1) / rows), Warps * 32, x.Pointer,
            w.Pointer, y.Pointer, x.Rows, (int)w.Dim(0), w.Width);
    }

    private static string Options(bool bf16, bool several) => (bf16, several) switch
    {
        (false, false) => "-DTYPE=float -DROWS=1",
        (false, true) => "-DTYPE=float -DROWS=8",
        (true, false) => "-DTYPE=bf16 -DROWS=1",
        _ => "-DTYPE=bf16 -DROWS=8",
    };
}
