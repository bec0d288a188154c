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

// The first statement of every kernel (CudaProgram writes it there): waits until all that was queued before is over and seen. A kernel of few blocks, which leaves
// most of the card idle, lets those of the next start beside it. Both are nothing to a kernel that is not part of a recorded step. One token of DeepSeek-V2-Lite
// on an H200: 328 tokens/s without, 336 where no kernel lets the next one start early, 349 with those of up to 64 blocks, 328 with all of up to 1024.
__device__ __forceinline__ void await_previous()
{
#if !defined(KT_EMULATED) && __CUDA_ARCH__ >= 900
    if (gridDim.x * gridDim.y * gridDim.z <= 64) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

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

// Sum over the lanes of a warp, the same in every lane.
__device__ __forceinline__ float warp_sum(float v)
{
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// a · x over K by a warp, the same in every lane: rounds of loads that depend on no branch (behind the end the last piece is read again, and not added), or their
// latencies would add up; PIECES of 128 elements a round. a and x: multiples of 4 elements from an aligned address, where K is a multiple of 4.
template <int PIECES, class V>
__device__ __forceinline__ float warp_dot(const float* a, const V* x, int K)
{
    int lane = threadIdx.x & 31;
    float sum = 0;
    if (K % 4 == 0)
    {
        for (int round = 0; round < K; round += PIECES * 32 * 4)
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++)
            {
                int k = round + (piece * 32 + lane) * 4, at = min(k, K - 4);
                Pack<float, 4> w = *(const Pack<float, 4>*)(a + at);
                Pack<V, 4> v = *(const Pack<V, 4>*)(x + at);
                float part = w.v[0] * widen(v.v[0]) + w.v[1] * widen(v.v[1]) + w.v[2] * widen(v.v[2]) + w.v[3] * widen(v.v[3]);
                if (k < K) sum += part;
            }
    }
    else
        for (int k = lane; k < K; k += 32) sum += a[k] * widen(x[k]);
    return warp_sum(sum);
}

// b · p over a rank by one thread; aligned where the rank is a multiple of 4.
__device__ __forceinline__ float rank_dot(const float* b, const float* p, int rank)
{
    float sum = 0;
    if (rank % 4 == 0)
    {
#pragma unroll 2
        for (int i = 0; i < rank; i += 4)
        {
            Pack<float, 4> v = *(const Pack<float, 4>*)(b + i);
            for (int j = 0; j < 4; j++) sum += v.v[j] * p[i + j];
        }
    }
    else
        for (int i = 0; i < rank; i++) sum += b[i] * p[i];
    return sum;
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

// The tensor cores and the asynchronous copies, as functions: kernels use these and no assembly of their own. All are of compute capability 8.0.
// An emulator of kernels on a CPU defines KT_EMULATED and brings its own bodies, of the same meaning.
#ifndef KT_EMULATED

// The block's dynamic shared memory, as bytes.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

__device__ __forceinline__ unsigned int shared_address(const void* p) { return (unsigned int)__cvta_generic_to_shared(p); }

// 16 bytes from global to shared memory (both aligned to 16), behind the thread's back; zeros where !valid, and then nothing is read.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}

// Closes a group of copies of this thread; copy_async_wait<N> waits until at most the N youngest groups are under way. Other threads see them after __syncthreads().
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
__device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8×8 matrices of 16-bit elements from shared memory. Lane l passes the address of row l % 8 of matrix l / 8 (16 bytes, aligned); register m of lane l gets elements
// (2·(l % 4), +1) of row l / 4 of matrix m; with _trans the same of the transposed matrices. By all 32 lanes.
__device__ __forceinline__ void load_matrix_x4(unsigned int (&r)[4], const void* row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

__device__ __forceinline__ void load_matrix_x4_trans(unsigned int (&r)[4], const void* row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// c [16, 8] += a [16, 16] · b [16, 8], BF16 in, F32 sums, spread over the 32 lanes of a warp. With g = lane / 4 and t = lane % 4:
// a[0] = (g, 2t..2t+1), a[1] = (g+8, 2t..), a[2] = (g, 2t+8..), a[3] = (g+8, 2t+8..): what load_matrix_x4 gives of the four quarters in the order top left, bottom left, top right, bottom right;
// b[0] = rows 2t, 2t+1 of column g, b[1] = rows 2t+8, 2t+9: what load_matrix gives of bᵀ stored by rows of k; c[0], c[1] = (g, 2t), (g, 2t+1); c[2], c[3] = (g+8, …). By all 32 lanes.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats as two BF16 in one register, the first in the low half; rounded to nearest, ties to even.
__device__ __forceinline__ unsigned int pack_bf16(float low, float high)
{
    unsigned int r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// Two BF16 at a time, each rounded to nearest once, like the product or the difference of the numbers (a fused multiply-add that adds −0, or multiplies by one).
__device__ __forceinline__ unsigned int multiply_bf16x2(unsigned int a, unsigned int b)
{
    unsigned int r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));
    return r;
}

__device__ __forceinline__ unsigned int subtract_bf16x2(unsigned int a, unsigned int b)
{
    unsigned int r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(0x3F803F80u), "r"(b ^ 0x80008000u));
    return r;
}

#endif

// (low of a, low of b), and the same of the high halves.
__device__ __forceinline__ unsigned int low_halves(unsigned int a, unsigned int b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ unsigned int high_halves(unsigned int a, unsigned int b) { return __byte_perm(a, b, 0x7632); }

#ifdef TYPE
typedef TYPE T;
#endif

