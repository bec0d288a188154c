// What the kernels for Hopper (sm_90a) share: arguments, tiles, warpgroup products (wgmma) that read both sides from shared memory, and the way of a result to memory.
// The only text with assembly of its own beside the prelude, because its instructions exist on this architecture alone; an emulator (KT_EMULATED) brings the functions that hold it.
//
// Two warpgroups compute a block's 128 × 256 tile, each 64 × 256, or a tile of at most 64 rows, each 64 × 128; K goes by 64.

struct Term { const T* a; const int* tokens; const T* b; const unsigned char* scales; long long stride_b; int lda, divide, ldb, K; };
struct Tile { int expert, first, rows, unused; };
struct Product { Term terms[3]; const Tile* tiles; T* c; int ldc, count, N; float alpha; };

#ifndef NN
#define NN 0
#endif

constexpr int BM = 128, BN = 256, BK = 64, THREADS = 256;
constexpr int A_BYTES = BM * BK * 2, B_BYTES = BN * BK * 2, B_MINE = BN * 8 / THREADS;
constexpr int OUT_ROW = BN * 2 + 16;

// 16-byte chunk of a row of 128 bytes, in the swizzle of 128 bytes that the products expect (address bits 4 … 6 xor bits 7 … 9).
__device__ __forceinline__ int at(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// A side in shared memory, swizzled by 128 bytes. Rows of 64 k (K-major): eight rows are 1,024 bytes, `leading` is unused. Rows of 64 n (N-major): eight k are 1,024 bytes, the next 64 n lie `leading` bytes on.
__device__ __forceinline__ unsigned long long describe(const void* p, int leading)
{
    return ((unsigned long long)(shared_address(p) & 0x3FFFF) >> 4) | ((unsigned long long)(leading >> 4) << 16) | (1024ull >> 4 << 32) | (1ull << 62);
}

#ifndef KT_EMULATED

#define WARPGROUP_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

// d [64, 256] += a [64, 16] · b [16, 256] of a warpgroup, queued; d must not be touched before it has been waited for. b_by_k: B lies by rows of k; a constant, and NN.
__device__ __forceinline__ void warpgroup_multiply(float (&d)[128], unsigned long long a, unsigned long long b, bool)
{
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, p, 1, 1, 0, %130; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "l"(a), "l"(b), "n"(NN));
}

// The same of half as many columns: d [64, 128] += a [64, 16] · b [16, 128].
__device__ __forceinline__ void warpgroup_multiply(float (&d)[64], unsigned long long a, unsigned long long b, bool)
{
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, %66; }"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b), "n"(NN));
}

__device__ __forceinline__ void warpgroup_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void warpgroup_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

// What was copied becomes visible to the products.
__device__ __forceinline__ void copies_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#endif

// A way through the terms of a product, BK of their K at a time; what a step asks of its term waits in registers.
struct Walk
{
    const Term* terms;
    int count, term, k, K, ldb;
    __device__ __forceinline__ Walk(const Term* terms, int count) : terms(terms), count(count) { open(0); }
    __device__ __forceinline__ bool over() const { return term >= count; }
    __device__ __forceinline__ void open(int t)
    {
        term = t;
        k = 0;
        if (over()) return;
        K = terms[t].K;
        ldb = terms[t].ldb;
    }
    // Whether another term begins.
    __device__ __forceinline__ bool next()
    {
        if ((k += BK) < K) return false;
        open(term + 1);
        return !over();
    }
};

// Where a thread's 16-byte chunk j of B goes, and which it is: NN: 64 rows of k, each four stretches of 64 n; else rows of n.
struct Chunk
{
    int row, chunk;
    __device__ __forceinline__ explicit Chunk(int j)
    {
        int c = threadIdx.x + j * THREADS;
        row = NN ? c / 32 : c / 8;
        chunk = NN ? c % 32 : c % 8;
    }
    __device__ __forceinline__ int place() const { return NN ? chunk / 8 * (BK * 128) + at(row, chunk % 8) : at(row, chunk); }
};

// One stage of B of a matrix in the rows' type.
__device__ __forceinline__ void copy_b(unsigned char* to, const T* b, int ldb, int k, int K, int n0, int N, const T* anything)
{
#pragma unroll
    for (int j = 0; j < B_MINE; j++)
    {
        Chunk c(j);
        bool valid = NN ? k + c.row < K && n0 + c.chunk * 8 < N : n0 + c.row < N && k + c.chunk * 8 < K;
        const T* from = NN ? b + (long long)(k + c.row) * ldb + n0 + c.chunk * 8 : b + (long long)(n0 + c.row) * ldb + k + c.chunk * 8;
        copy_async(to + c.place(), valid ? from : anything, valid);
    }
}

// The rows of A that a thread copies.
template <int ROWS>
struct RowsOfA
{
    static constexpr int MINE = ROWS * 8 / THREADS;
    const T* a[MINE];

    __device__ __forceinline__ void open(const Term& q, const Tile& tile)
    {
#pragma unroll
        for (int j = 0; j < MINE; j++)
        {
            int row = (threadIdx.x + j * THREADS) / 8, i = tile.first + min(row, tile.rows - 1);
            a[j] = q.a + (long long)(q.tokens ? q.tokens[i] / q.divide : i) * q.lda;
        }
    }

    __device__ __forceinline__ void copy(unsigned char* to, int k, int K, int rows, const T* anything) const
    {
#pragma unroll
        for (int j = 0; j < MINE; j++)
        {
            int c = threadIdx.x + j * THREADS, row = c / 8, chunk = c % 8;
            bool valid = row < rows && k + chunk * 8 < K;
            copy_async(to + at(row, chunk), valid ? a[j] + k + chunk * 8 : anything, valid);
        }
    }
};

// Queues the product of a stage.
template <int ROWS>
__device__ __forceinline__ void multiply_stage(float (&d)[ROWS], const unsigned char* A, const unsigned char* B)
{
    const int group = threadIdx.x >> 7;
    A += ROWS == 128 ? group * 64 * 128 : 0;
    B += ROWS == 128 ? 0 : group * 128 * 128; // 128 n are as many rows of 128 bytes, or two stretches of BK = 64
    warpgroup_begin();
#pragma unroll
    for (int kk = 0; kk < BK / 16; kk++) warpgroup_multiply(d, describe(A + kk * 32, 16), NN ? describe(B + kk * 16 * 128, BK * 128) : describe(B + kk * 32, 16), NN);
    warpgroup_commit();
}

// d leaves through shared memory, which nobody uses any more, in pieces of 16 bytes.
template <int ROWS>
__device__ __forceinline__ void store_tile(const float (&d)[ROWS], const Product& p, const Tile& tile, int n0, unsigned char* shared)
{
    const int thread = threadIdx.x, lane = thread & 31, group = thread >> 7;
    const int row = (ROWS == 128 ? group * 64 : 0) + (thread >> 5 & 3) * 16 + (lane >> 2), t2 = (ROWS == 128 ? 0 : group * 128) + (lane & 3) * 2;
#pragma unroll
    for (int j = 0; j < ROWS / 4; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(unsigned int*)(shared + (row + h * 8) * OUT_ROW + (j * 8 + t2) * 2) = pack_bf16(p.alpha * d[j * 4 + h * 2], p.alpha * d[j * 4 + h * 2 + 1]);
    __syncthreads();
    for (int v = thread; v < ROWS * BN / 8; v += THREADS)
    {
        int r = v / (BN / 8), chunk = v % (BN / 8);
        if (r < tile.rows && n0 + chunk * 8 < p.N)
            *(Pack<T, 8>*)(p.c + (long long)(tile.first + r) * p.ldc + n0 + chunk * 8) = *(const Pack<T, 8>*)(shared + r * OUT_ROW + chunk * 16);
    }
}

// The body of a kernel of this name: product<64 or 128>(p, terms, tile, shared).
#define GROUPED_PRODUCT                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) grouped_product(Product p)       \
    {                                                                                         \
        WARPGROUP_SHARED(shared);                                                             \
        __shared__ Term terms[3];                                                             \
        const Tile tile = p.tiles[blockIdx.y];                                                \
        if (tile.rows == 0) return;                                                           \
        if (threadIdx.x == 0)                                                                 \
        {                                                                                     \
            terms[0] = p.terms[0];                                                            \
            terms[1] = p.terms[1];                                                            \
            terms[2] = p.terms[2];                                                            \
        }                                                                                     \
        __syncthreads();                                                                      \
        if (tile.rows <= 64) product<64>(p, terms, tile, shared);                             \
        else product<128>(p, terms, tile, shared);                                            \
    }
