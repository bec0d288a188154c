// Low-rank pairs of several adapters beside the products of sorted rows: see SeveralPairs.cs. Route r = t·k + j of token t stands in sorted row row_of[r].

struct Low { const float *a, *b; int rank; };                    // A [E, rank, in], B [E, out, rank]
struct Pairs { Low gate, up, down; float scale; int unused; };   // as FewRows.cu has them; ranks of 0: none

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
    float sum = warp_dot<8>(a, rows + (long long)(down ? row_of[r] : r / k) * K, K);
    if (lane == 0) p[(long long)r * stride + i] = sum;
}

// target[row_of[r], n] += scale · B_e[n] · p[r]: of gate (blockIdx.z = 0) and up (1), or (down) of down alone. A thread an n.
extern "C" __global__ void several_add(const float* p, const int* row_of, const Pairs* pairs, const int* places, const int* indices, T* gate, T* up, int N, int k, int stride, int down)
{
    int r = blockIdx.x, n = blockIdx.y * blockDim.x + threadIdx.x, place = places[r / k], second = blockIdx.z;
    if (place < 0 || n >= N) return;
    Pairs q = pairs[place];
    Low low = down ? q.down : second ? q.up : q.gate;
    p += (long long)r * stride + (second ? q.gate.rank : 0);
    T* target = (second ? up : gate) + (long long)row_of[r] * N + n;
    store(target, widen(*target) + q.scale * rank_dot(low.b + ((long long)indices[r] * N + n) * low.rank, p, low.rank));
}
