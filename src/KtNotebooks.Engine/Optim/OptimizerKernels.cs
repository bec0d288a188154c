using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>
/// The optimizer's work on the tensors of one card: a launch for all of them, a block a chunk. Lengths and the addresses of weights and moments are sent
/// once, those of the gradients at every step (8 bytes a tensor); a block finds its tensor by bisection.
/// </summary>
internal sealed class OptimizerKernels : IDisposable
{
    private const string Source = Stochastic.CudaSource + """

        typedef Pack<float, 4> Four;

        // The first tensor whose end lies above this block.
        __device__ __forceinline__ int tensor_of_block(const int* ends, int tensors)
        {
            int low = 0, high = tensors - 1;
            while (low < high)
            {
                int middle = (low + high) / 2;
                if (ends[middle] > (int)blockIdx.x) high = middle;
                else low = middle + 1;
            }
            return low;
        }

        // partial[block] = sum of the squares of its chunk: some 64 elements a thread in F32, the threads in F64.
        extern "C" __global__ void squares(const long long* gradients, const long long* counts, const int* ends, int tensors, int chunk, double* partial)
        {
            __shared__ double warps[32];
            int t = tensor_of_block(ends, tensors);
            long long start = (blockIdx.x - (t ? ends[t - 1] : 0)) * (long long)chunk;
            int count = (int)min((long long)chunk, counts[t] - start), packs = gradients[t] % 16 == 0 ? count / 4 : 0;
            const float* g = (const float*)gradients[t] + start;
            float sum[4] = {0, 0, 0, 0};
            for (int i = threadIdx.x; i < packs; i += blockDim.x)
            {
                Four a = ((const Four*)g)[i];
                for (int j = 0; j < 4; j++) sum[j] += a.v[j] * a.v[j];
            }
            for (int i = 4 * packs + threadIdx.x; i < count; i += blockDim.x) sum[0] += g[i] * g[i];
            double all = (double)sum[0] + sum[1] + ((double)sum[2] + sum[3]);
            for (int offset = 16; offset > 0; offset >>= 1) all += __shfl_xor_sync(0xffffffffu, all, offset);
            if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = all;
            __syncthreads();
            if (threadIdx.x == 0)
            {
                all = 0;
                for (int w = 0; w < blockDim.x >> 5; w++) all += warps[w];
                partial[blockIdx.x] = all;
            }
        }

        // One block: every thread adds its share in order, then the threads are added in order.
        extern "C" __global__ void sum_squares(const double* partial, int count, double* total)
        {
            __shared__ double threads[256];
            double sum = 0;
            for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
            threads[threadIdx.x] = sum;
            __syncthreads();
            if (threadIdx.x != 0) return;
            for (int i = 1; i < blockDim.x; i++) sum += threads[i];
            *total = sum;
        }

        // The operations of AdamW.Update in its order: the same bits.
        __device__ __forceinline__ void update(float g, float& w, float& m, float& v, float b1, float b2, float rate, float correction, float eps, float decay)
        {
            m = fmaf(m, b1, g * (1.0f - b1));
            v = fmaf(v, b2, g * g * (1.0f - b2));
            w = fmaf(m / (sqrtf(v) / correction + eps), -rate, w * decay);
        }

        // state: addresses of w, m, v of each tensor; a gradient's address is 0 where there is none.
        extern "C" __global__ void adamw(const long long* state, const long long* gradients, const long long* counts, const int* ends, int tensors, int chunk,
            float scale, float b1, float b2, float rate, float correction, float eps, float decay)
        {
            int t = tensor_of_block(ends, tensors);
            long long start = (blockIdx.x - (t ? ends[t - 1] : 0)) * (long long)chunk;
            int count = (int)min((long long)chunk, counts[t] - start);
            int packs = (gradients[t] | state[3 * t] | state[3 * t + 1] | state[3 * t + 2]) % 16 == 0 ? count / 4 : 0;
            const float* g = gradients[t] ? (const float*)gradients[t] + start : nullptr;
            float *w = (float*)state[3 * t] + start, *m = (float*)state[3 * t + 1] + start, *v = (float*)state[3 * t + 2] + start;
            for (int i = threadIdx.x; i < packs; i += blockDim.x)
            {
                Four a = {}, x = ((Four*)w)[i], y = ((Four*)m)[i], z = ((Four*)v)[i];
                if (g) a = ((const Four*)g)[i];
                for (int j = 0; j < 4; j++) update(a.v[j] * scale, x.v[j], y.v[j], z.v[j], b1, b2, rate, correction, eps, decay);
                ((Four*)w)[i] = x;
                ((Four*)m)[i] = y;
                ((Four*)v)[i] = z;
            }
            for (int i = 4 * packs + threadIdx.x; i < count; i += blockDim.x)
                update(g ? g[i] * scale : 0.0f, w[i], m[i], v[i], b1, b2, rate, correction, eps, decay);
        }

        // The same of weights in BF16, rounded by chance; keys: of each tensor in this step.
        extern "C" __global__ void adamw_bf16(const long long* state, const long long* gradients, const long long* counts, const int* ends, int tensors,
            int chunk, const int* keys, float scale, float b1, float b2, float rate, float correction, float eps, float decay)
        {
            int t = tensor_of_block(ends, tensors);
            long long start = (blockIdx.x - (t ? ends[t - 1] : 0)) * (long long)chunk;
            int count = (int)min((long long)chunk, counts[t] - start);
            const float* g = gradients[t] ? (const float*)gradients[t] + start : nullptr;
            bf16* w = (bf16*)state[3 * t] + start;
            float *m = (float*)state[3 * t + 1] + start, *v = (float*)state[3 * t + 2] + start;
            for (int i = threadIdx.x; i < count; i += blockDim.x)
            {
                float x = widen(w[i]);
                update(g ? g[i] * scale : 0.0f, x, m[i], v[i], b1, b2, rate, correction, eps, decay);
                w[i] = by_chance(x, chance((unsigned int)keys[t], start + i));
            }
        }
        """;

    private const int Threads = 256;

    private static readonly CudaProgram Program = new(nameof(OptimizerKernels), Source);

    private readonly Chunks _chunks;
    private readonly Tensor _ends;
    private readonly Tensor _counts;
    private readonly Tensor? _state;
    private readonly long[] _addresses;

    /// <param name="chunks">Weights, or gradients where only their norm is wanted.</param>
    /// <param name="m">First moments of the weights.</param>
    /// <param name="v">Second moments of the weights.</param>
    public OptimizerKernels(Chunks chunks, IReadOnlyList<Tensor>? m = null, IReadOnlyList<Tensor>? v = null)
    {
        _chunks = chunks;
        _addresses = new long[chunks.Tensors.Count];
        _ends = Memory.Place(chunks.Ends, chunks.Device);
        _counts = Memory.Place(chunks.Counts, chunks.Device);
        if (m is not null && v is not null) _state = Memory.Place([.. Enumerable.Range(0, m.Count).SelectMany(i => new long[]
        {
            chunks.Tensors[i].Pointer, m[i].Pointer, v[i].Pointer
        })], chunks.Device);
    }

    /// <summary>Σ x² over all tensors, F64 [1] on the card.</summary>
    public Tensor Squares()
    {
        var (card, device) = (CudaDevice.Get(_chunks.Device.Index), _chunks.Device);
        using var tensors = Addresses(_chunks.Tensors);
        using var partial = Tensor.Empty(DType.F64, device, _chunks.Count);
        var total = Tensor.Empty(DType.F64, device, 1);
        Program.Kernel(card, "squares", "")
            .Launch(_chunks.Count, Threads, tensors.Pointer, _counts.Pointer, _ends.Pointer, _addresses.Length, Chunks.Size, partial.Pointer);
        Program.Kernel(card, "sum_squares", "").Launch(1, Threads, partial.Pointer, _chunks.Count, total.Pointer);
        return total;
    }

    /// <summary>One update of all weights and moments; gradients in the order of the weights.</summary>
    /// <param name="keys">Of <see cref="Stochastic"/> rounding, one a weight: they are BF16. Null: F32.</param>
    public void Step(IEnumerable<Tensor?> gradients, float scale, in AdamWFactors f, int[]? keys = null)
    {
        using var addresses = Addresses(gradients);
        if (keys is not null)
        {
            using var here = Memory.Place(keys, _chunks.Device);
            Program.Kernel(CudaDevice.Get(_chunks.Device.Index), "adamw_bf16", "")
                .Launch(_chunks.Count, Threads, _state!.Pointer, addresses.Pointer, _counts.Pointer, _ends.Pointer, _addresses.Length, Chunks.Size,
                here.Pointer, scale, f.Beta1, f.Beta2, f.Rate, f.Correction, f.Eps, f.Decay);
            return;
        }
        Program.Kernel(CudaDevice.Get(_chunks.Device.Index), "adamw", "")
            .Launch(_chunks.Count, Threads, _state!.Pointer, addresses.Pointer, _counts.Pointer, _ends.Pointer, _addresses.Length, Chunks.Size,
            scale, f.Beta1, f.Beta2, f.Rate, f.Correction, f.Eps, f.Decay);
    }

    public void Dispose()
    {
        _ends.Dispose();
        _counts.Dispose();
        _state?.Dispose();
    }

    private Tensor Addresses(IEnumerable<Tensor?> tensors)
    {
        var i = 0;
        foreach (var tensor in tensors) _addresses[i++] = tensor?.Pointer ?? 0;
        return Memory.Place(_addresses, _chunks.Device);
    }
}
