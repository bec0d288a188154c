// See ShortlistKernels.cs. A key is a logit whose order as an unsigned number is the order of floats, above the complement of its token's number: the larger key is the likelier token, of equal ones the first.
// NaN is above all; no key is 0.

__device__ __forceinline__ unsigned long long key_of(float logit, int id)
{
    unsigned int bits = logit == 0 ? 0u : __float_as_uint(logit); // −0 is 0
    unsigned int order = logit != logit ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)order << 32 | ~(unsigned int)id;
}

constexpr int PER = 8; // keys of a thread

// best [LIST] = the LIST largest of the block's keys in order, 0 where there are fewer. The LIST-th largest of the threads' own largest is found bit by bit (of the
// tokens' numbers only the lowest `bits` differ): what is as large as that is in at most LIST threads, and each such key takes the place that the larger ones leave it.
__device__ __forceinline__ void best_of(const unsigned long long (&keys)[PER], int bits, unsigned long long* best)
{
    __shared__ unsigned long long found[LIST * PER];
    __shared__ int counts[2][32], taken;
    if (threadIdx.x == 0) taken = 0;
    unsigned long long most = 0, least = 0;
#pragma unroll
    for (int i = 0; i < PER; i++) most = max(most, keys[i]);
    for (int bit = 63, turn = 0; bit >= 0; bit--, turn ^= 1)
    {
        if (bit == 31)
        {
            least |= bits < 32 ? 0xffffffffull >> bits << bits : 0; // of every key
            bit = bits - 1;
        }
        int count = __popc(__ballot_sync(0xffffffffu, most >= (least | 1ull << bit))), all = 0;
        if ((threadIdx.x & 31) == 0) counts[turn][threadIdx.x >> 5] = count; // in turn, so that one barrier is enough
        __syncthreads();
        for (int warp = 0; warp < blockDim.x / 32; warp++) all += counts[turn][warp];
        if (all >= LIST) least |= 1ull << bit;
        if (all == LIST) break;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PER; i++)
        if (keys[i] >= least && keys[i] != 0) found[atomicAdd(&taken, 1)] = keys[i];
    __syncthreads();
    for (int i = threadIdx.x; i < max(taken, LIST); i += blockDim.x)
    {
        int place = i;
        if (i < taken)
        {
            place = 0;
            for (int j = 0; j < taken; j++) place += found[j] > found[i];
        }
        if (place < LIST) best[place] = i < taken ? found[i] : 0;
    }
}

// best [rows, chunks, LIST]: a chunk's LIST largest keys, of PER · blockDim.x columns of a row. logits [rows, width], of which `used` columns count.
extern "C" __global__ void shortlist_chunks(const float* logits, unsigned long long* best, int width, int used, int bits)
{
    unsigned long long keys[PER];
    const float* row = logits + (long long)blockIdx.y * width;
    int from = blockIdx.x * PER * blockDim.x + threadIdx.x;
#pragma unroll
    for (int i = 0; i < PER; i++)
    {
        int id = from + i * blockDim.x;
        keys[i] = id < used ? key_of(row[min(id, used - 1)], id) : 0;
    }
    best_of(keys, bits, best + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * LIST);
}

// list [rows, LIST]: the largest of a row's `count` keys.
extern "C" __global__ void shortlist_rows(const unsigned long long* best, unsigned long long* list, int count, int bits)
{
    unsigned long long keys[PER];
    const unsigned long long* row = best + (long long)blockIdx.x * count;
#pragma unroll
    for (int i = 0; i < PER; i++)
    {
        int at = threadIdx.x + i * blockDim.x;
        keys[i] = at < count ? row[min(at, count - 1)] : 0;
    }
    best_of(keys, bits, list + (long long)blockIdx.x * LIST);
}
