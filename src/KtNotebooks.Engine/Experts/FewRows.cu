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

__device__ __forceinline__ void widen8(const T* from, float* x)
{
    Pack<T, 8> v = *(const Pack<T, 8>*)from;
    for (int j = 0; j < 8; j++) x[j] = widen(v.v[j]);
}

// Row n of a matrix and row m of another one or the same, P pieces of 256 columns from column `round` on, 8 a lane; zeros behind the end. All loads of a round
// stand before whatever depends on a branch, or their latencies would add up.
template <int P>
__device__ __forceinline__ void load_round(const unsigned char* expert, Piece one, int n, Piece other, int m, int round, int K, float (*a)[8], float (*b)[8])
{
#pragma unroll
    for (int piece = 0; piece < P; piece++)
    {
        int c = round + (piece * 32 + (threadIdx.x & 31)) * 8, at = min(c, K - 8);
        load8(expert, one, n, at, K, a[piece]);
        load8(expert, other, m, at, K, b[piece]);
        if (c < K) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) a[piece][j] = b[piece][j] = 0;
    }
}

// a · x and b · x over those columns, added to sums.
template <int P>
__device__ __forceinline__ void add_round(const float (*a)[8], const float (*b)[8], const T* x, int round, int K, float& sum_a, float& sum_b)
{
#pragma unroll
    for (int piece = 0; piece < P; piece++)
    {
        float v[8];
        widen8(x + min(round + (piece * 32 + (int)(threadIdx.x & 31)) * 8, K - 8), v);
        sum_a += dot8(a[piece], v);
        sum_b += dot8(b[piece], v);
    }
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
    float sum = warp_dot<8>(a, f.x + (long long)(r / f.k) * f.D, f.D);
    if (lane == 0) f.p[(long long)r * f.low + i] = sum;
}

// The same of the third projection: p[r, i] = A_e[i] · h[r].
extern "C" __global__ void few_low_down(Few f)
{
    int r = blockIdx.x, i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    Low low = pairs_of(f, r / f.k).down;
    if (i >= low.rank) return;
    const float* a = low.a + ((long long)f.indices[r] * low.rank + i) * f.I;
    float sum = warp_dot<8>(a, f.h + (long long)r * f.I, f.I);
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
        for (int round = 0; round < f.D; round += 2 * 256) // longer rounds take registers, and with them warps that wait beside each other
        {
            float gate[2][8], up[2][8];
            load_round<2>(expert, f.gate, i, f.up, i, round, f.D, gate, up);
#pragma unroll
            for (int n = 0; n < ROWS; n++)
                if (n < count) add_round<2>(gate, up, x[n], round, f.D, g[n], u[n]);
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

// down_e[n] · h[r] and down_e[n + 1] · h[r], with their low-rank pair, of `count` routes of expert e; the same in every lane of a warp.
__device__ __forceinline__ void down_products(const Few& f, int e, int n, const int* route, int count, float (*product)[2])
{
    int lane = threadIdx.x & 31;
    const unsigned char* expert = f.bank + e * f.expert_bytes;
#pragma unroll
    for (int m = 0; m < ROWS; m++) product[m][0] = product[m][1] = 0;
    for (int round = 0; round < f.I; round += 3 * 256)
    {
        float even[3][8], odd[3][8];
        load_round<3>(expert, f.down, n, f.down, n + 1, round, f.I, even, odd);
#pragma unroll
        for (int m = 0; m < ROWS; m++)
            if (m < count) add_round<3>(even, odd, f.h + (long long)route[m] * f.I, round, f.I, product[m][0], product[m][1]);
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++)
    {
        if (m >= count) break;
        Pairs q = pairs_of(f, route[m] / f.k);
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            if (q.gate.a)
            {
                int rank = q.down.rank;
                const float *p = f.p + (long long)route[m] * f.low, *b = q.down.b + ((long long)e * f.D + n + half) * rank;
                for (int i = lane; i < rank; i += 32) product[m][half] += q.scale * b[i] * p[i];
            }
            product[m][half] = warp_sum(product[m][half]);
        }
    }
}

// y[t, n] = Σ_j weights[t, j] · down_e[n] · h[t·k + j]: four sums, of every fourth j each, in this order everywhere. A warp two n.
#if ROWS == 1

// Four warps two n, each for every fourth expert.
extern "C" __global__ void few_down(Few f)
{
    __shared__ float quarters[8][2];
    int warp = threadIdx.x >> 5, t = blockIdx.x, n = 2 * (blockIdx.y * (blockDim.x >> 7) + (warp >> 2)), lane = threadIdx.x & 31;
    float sum[2] = {0, 0};
    if (n < f.D)
        for (int j = warp & 3; j < f.k; j += 4)
        {
            int route = t * f.k + j;
            float product[1][2];
            down_products(f, f.indices[route], n, &route, 1, product);
            for (int half = 0; half < 2; half++) sum[half] = fmaf(f.weights[route], product[0][half], sum[half]);
        }
    if (lane < 2) quarters[warp][lane] = lane ? sum[1] : sum[0];
    __syncthreads();
    if (n < f.D && lane < 2 && (warp & 3) == 0)
        store(f.y + (long long)t * f.D + n + lane, (quarters[warp][lane] + quarters[warp + 1][lane]) + (quarters[warp + 2][lane] + quarters[warp + 3][lane]));
}

#else

// Products [r, n] of all rows of an expert.
extern "C" __global__ void few_down(Few f)
{
    int n = 2 * (blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5)), lane = threadIdx.x & 31, to = f.offsets[blockIdx.x + 1];
    if (n >= f.D) return;
    for (int first = f.offsets[blockIdx.x]; first < to; first += ROWS)
    {
        int count = min(ROWS, to - first), route[ROWS];
        float product[ROWS][2];
#pragma unroll
        for (int m = 0; m < ROWS; m++) route[m] = f.order[min(first + m, to - 1)];
        down_products(f, blockIdx.x, n, route, count, product);
#pragma unroll
        for (int m = 0; m < ROWS; m++)
            if (m < count && lane < 2) f.products[(long long)route[m] * f.D + n + lane] = lane ? product[m][1] : product[m][0];
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
