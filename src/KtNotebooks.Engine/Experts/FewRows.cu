// A few tokens meet experts that lie on the card, as stored: a warp an output element, every weight read once and dequantized in registers, sums in F32.
// No number comes from the host: indices say where a route's expert lies. Behind the text of the bank's format and `unit`.
// T tokens, k experts each; route r = t·k + j. D, I: multiples of 8. -DROWS=1: a block a route. -DROWS=8: a block an expert, whose rows (sorted routes) meet its
// weights eight at a time, so that a weight is read and decoded once for them. A row's sums are the same either way, bit for bit.

// One matrix inside an expert: offsets of its codes and scales, in bytes.
struct Piece { long long data, scales; };

// Low-rank halves of one projection, F32: A [E, rank, in], B [E, out, rank]. a == nullptr: none.
struct Low { const float *a, *b; int rank; };

// Low-rank pairs of all experts of an adapter; gate.a == nullptr: it has none here.
struct Pairs { Low gate, up, down; float scale; int unused; };

struct Few
{
    const unsigned char* bank;
    long long expert_bytes;
    Piece gate, up, down;
    const T* x;             // [T, D]
    const int* indices;     // [T, k]
    const float* weights;   // [T, k]
    const int *offsets, *order; // of ROWS > 1: rows [E + 1] of each expert in the sorted routes
    Pairs one;              // of all tokens, unless there are several:
    const Pairs* several;
    const int* pairs;       // [T]: which of several, −1: none
    float* p;               // [T·k, low]: rank gate + rank up, later rank down: what the A halves give
    const float* biases;    // [E, 2I] of a clamped SwiGLU, nullptr: SwiGLU
    T* h;                   // [T·k, I]
    float* products;        // of ROWS > 1: [T·k, D]
    T* y;                   // [T, D]
    int k, D, I, low;
    float limit;            // of the clamped SwiGLU
};

__device__ __forceinline__ float warp_sum(float v)
{
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// Codes times scales are rounded to the type of the rows, as every path does; what is stored in a float type already has that type, or F32 rows.
__device__ __forceinline__ void round2(float& low, float& high, float) {}
__device__ __forceinline__ void round2(float& low, float& high, bf16)
{
    unsigned int pair = pack_bf16(low, high);
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xFFFF0000u);
}

// Eight elements of row n of a matrix [N, K], from column k on.
__device__ __forceinline__ void load8(const unsigned char* expert, Piece piece, int n, int k, int K, float* w)
{
    dequantize8(expert + piece.data, expert + piece.scales, n, k, K, 8, w);
    if (ROUNDED)
        for (int j = 0; j < 8; j += 2) round2(w[j], w[j + 1], T());
}

__device__ __forceinline__ float dot8(const float* w, const float* x)
{
    float sum = 0;
    for (int j = 0; j < 8; j++) sum = fmaf(w[j], x[j], sum);
    return sum;
}

__device__ __forceinline__ Pairs pairs_of(const Few& f, int token)
{
    if (!f.several) return f.one;
    int which = f.pairs[token];
    return which < 0 ? Pairs{} : f.several[which];
}

// x[0 … 8) from column c on, zeros behind the end: loops over columns take whole rounds of loads, none of which depends on a branch, or their latencies would add up.
__device__ __forceinline__ void widen8(const T* from, int c, int columns, float* x)
{
    Pack<T, 8> v = *(const Pack<T, 8>*)(from + min(c, columns - 8));
    for (int j = 0; j < 8; j++) x[j] = c < columns ? widen(v.v[j]) : 0.0f;
}

// p[r, i] = A_e[i] · x[r / k], gate's rows first, then up's. A warp a row of A.
extern "C" __global__ void few_low_in(Few f)
{
    int r = blockIdx.x, i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    Pairs q = pairs_of(f, r / f.k);
    if (i >= q.gate.rank + q.up.rank) return;
    bool is_gate = i < q.gate.rank;
    Low low = is_gate ? q.gate : q.up;
    const float* a = low.a + ((long long)f.indices[r] * low.rank + (is_gate ? i : i - q.gate.rank)) * f.D;
    const T* x = f.x + (long long)(r / f.k) * f.D;
    float sum = 0;
    for (int c = lane; c < f.D; c += 32) sum += a[c] * widen(x[c]);
    sum = warp_sum(sum);
    if (lane == 0) f.p[(long long)r * f.low + i] = sum;
}

// The same of the third projection: p[r, i] = A_e[i] · h[r].
extern "C" __global__ void few_low_down(Few f)
{
    int r = blockIdx.x, i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    Low low = pairs_of(f, r / f.k).down;
    if (i >= low.rank) return;
    const float* a = low.a + ((long long)f.indices[r] * low.rank + i) * f.I;
    const T* h = f.h + (long long)r * f.I;
    float sum = 0;
    for (int c = lane; c < f.I; c += 32) sum += a[c] * widen(h[c]);
    sum = warp_sum(sum);
    if (lane == 0) f.p[(long long)r * f.low + i] = sum;
}

// h[r, i] = silu(gate_e[i] · x) · (up_e[i] · x), each with its low-rank pair, or the clamped form. A warp an i.
extern "C" __global__ void few_gate_up(Few f)
{
    int i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (i >= f.I) return;
    int from = ROWS > 1 ? f.offsets[blockIdx.x] : blockIdx.x, to = ROWS > 1 ? f.offsets[blockIdx.x + 1] : from + 1;
    int e = ROWS > 1 ? blockIdx.x : f.indices[from];
    const unsigned char* expert = f.bank + e * f.expert_bytes;
    for (int first = from; first < to; first += ROWS)
    {
        int count = min(ROWS, to - first), route[ROWS];
        const T* x[ROWS];
        float g[ROWS], u[ROWS];
#pragma unroll
        for (int n = 0; n < ROWS; n++)
        {
            route[n] = ROWS > 1 ? f.order[min(first + n, to - 1)] : first;
            x[n] = f.x + (long long)(route[n] / f.k) * f.D;
            g[n] = u[n] = 0;
        }
        for (int round = 0; round < f.D; round += 4 * 256)
#pragma unroll
            for (int piece = 0; piece < 4; piece++)
            {
                int c = round + (piece * 32 + lane) * 8, at = min(c, f.D - 8);
                float gate[8], up[8], v[8];
                load8(expert, f.gate, i, at, f.D, gate);
                load8(expert, f.up, i, at, f.D, up);
#pragma unroll
                for (int n = 0; n < ROWS; n++)
                {
                    if (ROWS > 1 && n >= count) break;
                    widen8(x[n], c, f.D, v);
                    g[n] += dot8(gate, v);
                    u[n] += dot8(up, v);
                }
            }
#pragma unroll
        for (int n = 0; n < ROWS; n++)
        {
            if (n >= count) break;
            int r = route[n];
            Pairs q = pairs_of(f, r / f.k);
            if (q.gate.a)
            {
                int rg = q.gate.rank, ru = q.up.rank;
                const float *p = f.p + (long long)r * f.low, *bg = q.gate.b + ((long long)e * f.I + i) * rg, *bu = q.up.b + ((long long)e * f.I + i) * ru;
                for (int m = lane; m < rg; m += 32) g[n] += q.scale * bg[m] * p[m];
                for (int m = lane; m < ru; m += 32) u[n] += q.scale * bu[m] * p[rg + m];
            }
            float a = warp_sum(g[n]), b = warp_sum(u[n]);
            if (lane != 0) continue;
            T* h = f.h + (long long)r * f.I + i;
            if (f.biases)
            {
                const float* bias = f.biases + 2LL * ((long long)e * f.I + i);
                store(h, unit(a + bias[0], b + bias[1], f.limit).h);
            }
            else store(h, a / (1.0f + expf(-a)) * b);
        }
    }
}

// down_e[n] · h[r], with its low-rank pair, of `count` routes of expert e; the same in every lane of a warp.
__device__ __forceinline__ void down_products(const Few& f, int e, int n, const int* route, int count, float* product)
{
    int lane = threadIdx.x & 31;
    const unsigned char* expert = f.bank + e * f.expert_bytes;
#pragma unroll
    for (int m = 0; m < ROWS; m++) product[m] = 0;
    for (int round = 0; round < f.I; round += 3 * 256)
#pragma unroll
        for (int piece = 0; piece < 3; piece++)
        {
            int c = round + (piece * 32 + lane) * 8;
            float w[8], v[8];
            load8(expert, f.down, n, min(c, f.I - 8), f.I, w);
#pragma unroll
            for (int m = 0; m < ROWS; m++)
            {
                if (ROWS > 1 && m >= count) break;
                widen8(f.h + (long long)route[m] * f.I, c, f.I, v);
                product[m] += dot8(w, v);
            }
        }
#pragma unroll
    for (int m = 0; m < ROWS; m++)
    {
        if (m >= count) break;
        Pairs q = pairs_of(f, route[m] / f.k);
        if (q.gate.a)
        {
            int rank = q.down.rank;
            const float *p = f.p + (long long)route[m] * f.low, *b = q.down.b + ((long long)e * f.D + n) * rank;
            for (int i = lane; i < rank; i += 32) product[m] += q.scale * b[i] * p[i];
        }
        product[m] = warp_sum(product[m]);
    }
}

// y[t, n] = Σ_j weights[t, j] · down_e[n] · h[t·k + j]: four sums, of every fourth j each, in this order everywhere.
#if ROWS == 1

// Four warps an n, each for every fourth expert.
extern "C" __global__ void few_down(Few f)
{
    __shared__ float quarters[8];
    int warp = threadIdx.x >> 5, t = blockIdx.x, n = blockIdx.y * (blockDim.x >> 7) + (warp >> 2), lane = threadIdx.x & 31;
    float sum = 0;
    if (n < f.D)
        for (int j = warp & 3; j < f.k; j += 4)
        {
            int route = t * f.k + j;
            float product;
            down_products(f, f.indices[route], n, &route, 1, &product);
            sum = fmaf(f.weights[route], product, sum);
        }
    if (lane == 0) quarters[warp] = sum;
    __syncthreads();
    if (n < f.D && lane == 0 && (warp & 3) == 0)
        store(f.y + (long long)t * f.D + n, (quarters[warp] + quarters[warp + 1]) + (quarters[warp + 2] + quarters[warp + 3]));
}

#else

// A warp an n of an expert: products [r, n] of all its rows.
extern "C" __global__ void few_down(Few f)
{
    int n = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31, to = f.offsets[blockIdx.x + 1];
    if (n >= f.D) return;
    for (int first = f.offsets[blockIdx.x]; first < to; first += ROWS)
    {
        int count = min(ROWS, to - first), route[ROWS];
        float product[ROWS];
#pragma unroll
        for (int m = 0; m < ROWS; m++) route[m] = f.order[min(first + m, to - 1)];
        down_products(f, blockIdx.x, n, route, count, product);
#pragma unroll
        for (int m = 0; m < ROWS; m++)
            if (m < count && lane == 0) f.products[(long long)route[m] * f.D + n] = product[m];
    }
}

// A thread an element of y.
extern "C" __global__ void few_combine(Few f)
{
    int t = blockIdx.x, n = blockIdx.y * blockDim.x + threadIdx.x;
    if (n >= f.D) return;
    float quarters[4];
#pragma unroll
    for (int q = 0; q < 4; q++)
    {
        float sum = 0;
        for (int j = q; j < f.k; j += 4) sum = fmaf(f.weights[t * f.k + j], f.products[(long long)(t * f.k + j) * f.D + n], sum);
        quarters[q] = sum;
    }
    store(f.y + (long long)t * f.D + n, (quarters[0] + quarters[1]) + (quarters[2] + quarters[3]));
}

#endif
