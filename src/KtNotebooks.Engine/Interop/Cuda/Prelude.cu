// Shared by all CUDA kernels of the engine. Includes nothing, so that NVRTC needs no toolkit headers.
// Arithmetic is F32; T is the storage type of a kernel, chosen by -DTYPE=float or -DTYPE=bf16
// (not by -DT=…: the compiler's own header has templates over T).

struct bf16 { unsigned short bits; };

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(bf16 v) { return __uint_as_float((unsigned int)v.bits << 16); }

__device__ __forceinline__ void store(float* target, float v) { *target = v; }

// Round to nearest, ties to even; NaN stays NaN: bit for bit what the CPU does.
__device__ __forceinline__ void store(bf16* target, float v)
{
    unsigned int bits = __float_as_uint(v);
    target->bits = v != v ? (unsigned short)((bits >> 16) | 0x40) : (unsigned short)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// N neighbouring values, moved by loads and stores of up to 16 bytes.
template <class V, int N>
struct alignas(sizeof(V) * N) Pack { V v[N]; };

// Sum over the threads of a block (a multiple of 32, at most 1024), the same in every thread and in the same order at every run.
__device__ __forceinline__ float block_sum(float v)
{
    __shared__ float warps[32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, count = blockDim.x >> 5;
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    __syncthreads();
    if (lane == 0) warps[warp] = v;
    __syncthreads();
    v = lane < count ? warps[lane] : 0.0f;
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// The finaliser of splitmix64, and dropout's decision: see DropoutMask.
__device__ __forceinline__ unsigned long long mix(unsigned long long z)
{
    z += 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

__device__ __forceinline__ bool keeps(unsigned long long row_key, unsigned int column, unsigned int threshold)
{
    return (unsigned int)(mix(row_key + column) >> 32) >= threshold;
}

#ifdef TYPE
typedef TYPE T;
#endif

