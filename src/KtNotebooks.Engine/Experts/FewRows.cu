// A few tokens meet experts that lie on the card, as stored: a warp an output element, every weight read once and dequantized in registers, sums in F32.
// Nothing is sorted and no number comes from the host: indices say where a route's expert lies. Behind the text of the bank's format and `unit`.
// T tokens, k experts each; route r = t·k + j. D, I: multiples of 8.

// One matrix inside an expert: offsets of its codes and scales, in bytes.
struct Piece { long long data, scales; };

// Low-rank halves of one projection, F32: A [E, rank, in], B [E, out, rank]. a == nullptr: none.
struct Low { const float *a, *b; int rank; };

struct Few
{
    const unsigned char* bank;
    long long expert_bytes;
    Piece gate, up, down;
    const T* x;             // [T, D]
    const int* indices;     // [T, k]
    const float* weights;   // [T, k]
    Low low_gate, low_up, low_down;
    float* p;               // [T·k, rank gate + rank up], later [T·k, rank down]: what the A halves give
    const float* biases;    // [E, 2I] of a clamped SwiGLU, nullptr: SwiGLU
    T* h;                   // [T·k, I]
    T* y;                   // [T, D]
    int k, D, I;
    float scale, limit;     // of the low-rank pairs; of the clamped SwiGLU
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

// Σ of eight elements of row n of a matrix [N, K], from column k on, times x[0 … 8).
__device__ __forceinline__ float dot8(const unsigned char* expert, Piece piece, int n, int k, int K, const float* x)
{
    float w[8], sum = 0;
    dequantize8(expert + piece.data, expert + piece.scales, n, k, K, 8, w);
    if (ROUNDED)
        for (int j = 0; j < 8; j += 2) round2(w[j], w[j + 1], T());
    for (int j = 0; j < 8; j++) sum += w[j] * x[j];
    return sum;
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
    int r = blockIdx.x, i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31, ranks = f.low_gate.rank + f.low_up.rank;
    if (i >= ranks) return;
    Low low = i < f.low_gate.rank ? f.low_gate : f.low_up;
    const float* a = low.a + ((long long)f.indices[r] * low.rank + (i < f.low_gate.rank ? i : i - f.low_gate.rank)) * f.D;
    const T* x = f.x + (long long)(r / f.k) * f.D;
    float sum = 0;
    for (int c = lane; c < f.D; c += 32) sum += a[c] * widen(x[c]);
    sum = warp_sum(sum);
    if (lane == 0) f.p[(long long)r * ranks + i] = sum;
}

// The same of the third projection: p[r, i] = A_e[i] · h[r].
extern "C" __global__ void few_low_down(Few f)
{
    int r = blockIdx.x, i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31, rank = f.low_down.rank;
    if (i >= rank) return;
    const float* a = f.low_down.a + ((long long)f.indices[r] * rank + i) * f.I;
    const T* h = f.h + (long long)r * f.I;
    float sum = 0;
    for (int c = lane; c < f.I; c += 32) sum += a[c] * widen(h[c]);
    sum = warp_sum(sum);
    if (lane == 0) f.p[(long long)r * rank + i] = sum;
}

// h[r, i] = silu(gate_e[i] · x) · (up_e[i] · x), each with its low-rank pair, or the clamped form. A warp an i.
extern "C" __global__ void few_gate_up(Few f)
{
    int r = blockIdx.x, i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (i >= f.I) return;
    int e = f.indices[r];
    const unsigned char* expert = f.bank + e * f.expert_bytes;
    const T* x = f.x + (long long)(r / f.k) * f.D;
    float g = 0, u = 0;
    for (int round = 0; round < f.D; round += 4 * 256)
#pragma unroll
        for (int piece = 0; piece < 4; piece++)
        {
            int c = round + (piece * 32 + lane) * 8;
            float v[8];
            widen8(x, c, f.D, v);
            c = min(c, f.D - 8);
            g += dot8(expert, f.gate, i, c, f.D, v);
            u += dot8(expert, f.up, i, c, f.D, v);
        }
    if (f.low_gate.a)
    {
        int rg = f.low_gate.rank, ru = f.low_up.rank;
        const float *p = f.p + (long long)r * (rg + ru), *bg = f.low_gate.b + ((long long)e * f.I + i) * rg, *bu = f.low_up.b + ((long long)e * f.I + i) * ru;
        for (int q = lane; q < rg; q += 32) g += f.scale * bg[q] * p[q];
        for (int q = lane; q < ru; q += 32) u += f.scale * bu[q] * p[rg + q];
    }
    g = warp_sum(g);
    u = warp_sum(u);
    if (lane != 0) return;
    T* h = f.h + (long long)r * f.I + i;
    if (f.biases)
    {
        const float* b = f.biases + 2LL * ((long long)e * f.I + i);
        store(h, unit(g + b[0], u + b[1], f.limit).h);
    }
    else store(h, g / (1.0f + expf(-g)) * u);
}

// y[t, n] = Σ_j weights[t, j] · down_e[n] · h[t·k + j], each with its low-rank pair. Four warps an n, each for every fourth expert.
extern "C" __global__ void few_down(Few f)
{
    __shared__ float quarters[8];
    int warp = threadIdx.x >> 5, t = blockIdx.x, n = blockIdx.y * (blockDim.x >> 7) + (warp >> 2), lane = threadIdx.x & 31;
    float sum = 0;
    if (n < f.D)
    {
        const T* h = f.h + (long long)t * f.k * f.I;
        for (int j = warp & 3; j < f.k; j += 4)
        {
            int e = f.indices[t * f.k + j];
            const unsigned char* expert = f.bank + e * f.expert_bytes;
            float product = 0;
            for (int round = 0; round < f.I; round += 3 * 256)
#pragma unroll
                for (int piece = 0; piece < 3; piece++)
                {
                    int c = round + (piece * 32 + lane) * 8;
                    float v[8];
                    widen8(h + (long long)j * f.I, c, f.I, v);
                    product += dot8(expert, f.down, n, min(c, f.I - 8), f.I, v);
                }
            if (f.low_down.a)
            {
                int rank = f.low_down.rank;
                const float *p = f.p + (long long)(t * f.k + j) * rank, *b = f.low_down.b + ((long long)e * f.D + n) * rank;
                for (int q = lane; q < rank; q += 32) product += f.scale * b[q] * p[q];
            }
            sum += f.weights[t * f.k + j] * product;
        }
    }
    sum = warp_sum(sum);
    if (lane == 0) quarters[warp] = sum;
    __syncthreads();
    if (n < f.D && lane == 0 && (warp & 3) == 0)
        store(f.y + (long long)t * f.D + n, (quarters[warp] + quarters[warp + 1]) + (quarters[warp + 2] + quarters[warp + 3]));
}
