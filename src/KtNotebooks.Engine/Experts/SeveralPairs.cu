// Low-rank pairs of several adapters beside the products of sorted rows: see SeveralPairs.cs. Route r = t·k + j of token t stands in sorted row row_of[r].

struct Low { const float *a, *b; int rank; };                    // A [E, rank, in], B [E, out, rank]
struct Pairs { Low gate, up, down; float scale; int unused; };   // as FewRows.cu has them; ranks of 0: none

__device__ __forceinline__ float warp_sum(float v)
{
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// p[r, i] = A_e[i] · row: gate's rows of A and then up's with token r / k, or (down) down's with sorted row row_of[r]. A warp an i.
extern "C" __global__ void several_in(const T* rows, const int* row_of, const Pairs* pairs, const int* places, const int* indices, float* p, int K, int k, int stride, int down)
{
    int r = blockIdx.x, i = blockIdx.y * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31, place = places[r / k];
    if (place < 0) return;
    Pairs q = pairs[place];
    if (i >= (down ? q.down.rank : q.gate.rank + q.up.rank)) return;
    bool second = !down && i >= q.gate.rank;
    Low low = down ? q.down : second ? q.up : q.gate;
    const float* a = low.a + ((long long)indices[r] * low.rank + (second ? i - q.gate.rank : i)) * K;
    const T* x = rows + (long long)(down ? row_of[r] : r / k) * K;
    float sum = 0;
    for (int c = lane; c < K; c += 32) sum += a[c] * widen(x[c]);
    sum = warp_sum(sum);
    if (lane == 0) p[(long long)r * stride + i] = sum;
}

// target[row_of[r], n] += scale · B_e[n] · p[r], of gate (0), up (1) or down (2). A thread an n.
extern "C" __global__ void several_add(const float* p, const int* row_of, const Pairs* pairs, const int* places, const int* indices, T* target, int N, int k, int stride, int which)
{
    int r = blockIdx.x, n = blockIdx.y * blockDim.x + threadIdx.x, place = places[r / k];
    if (place < 0 || n >= N) return;
    Pairs q = pairs[place];
    Low low = which == 0 ? q.gate : which == 1 ? q.up : q.down;
    const float* b = low.b + ((long long)indices[r] * N + n) * low.rank;
    p += (long long)r * stride + (which == 1 ? q.gate.rank : 0);
    float sum = 0;
    for (int i = 0; i < low.rank; i++) sum += b[i] * p[i];
    target += (long long)row_of[r] * N + n;
    store(target, widen(*target) + q.scale * sum);
}
