// See ShortlistKernels.cs. A key is a logit whose order as an unsigned number is the order of floats, above the complement of its token's number: the larger key is the likelier token, of equal ones the first.
// NaN is above all; no key is 0.

__device__ __forceinline__ unsigned long long key_of(float logit, int id)
{
    unsigned int bits = logit == 0 ? 0u : __float_as_uint(logit); // −0 is 0
    unsigned int order = logit != logit ? 0xffffffffu : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)order << 32 | ~(unsigned int)id;
}

// A bitonic sort from the largest on. keys [size] in shared memory, size a power of two.
__device__ __forceinline__ void sort_keys(unsigned long long* keys, int size)
{
    for (int run = 2; run <= size; run <<= 1)
        for (int step = run >> 1; step > 0; step >>= 1)
        {
            __syncthreads();
            for (int pair = threadIdx.x; pair < size / 2; pair += blockDim.x)
            {
                int i = 2 * pair - (pair & (step - 1));
                unsigned long long a = keys[i], b = keys[i + step];
                if ((a < b) == ((i & run) == 0))
                {
                    keys[i] = b;
                    keys[i + step] = a;
                }
            }
        }
    __syncthreads();
}

// best [rows, chunks, LIST]: a block's LIST largest keys of a chunk of a row, `size` wide. logits [rows, width], of which `used` columns count.
extern "C" __global__ void shortlist_chunks(const float* logits, unsigned long long* best, int width, int used, int size)
{
    DYNAMIC_SHARED(memory);
    unsigned long long* keys = (unsigned long long*)memory;
    int from = blockIdx.x * size, count = min(size, used - from);
    const float* row = logits + (long long)blockIdx.y * width + from;
    for (int i = threadIdx.x; i < size; i += blockDim.x) keys[i] = i < count ? key_of(row[i], from + i) : 0;
    sort_keys(keys, size);
    unsigned long long* target = best + ((long long)blockIdx.y * gridDim.x + blockIdx.x) * LIST;
    for (int i = threadIdx.x; i < LIST; i += blockDim.x) target[i] = keys[i];
}

// list [rows, LIST]: the largest of a row's chunks.
extern "C" __global__ void shortlist_rows(const unsigned long long* best, unsigned long long* list, int count, int size)
{
    DYNAMIC_SHARED(memory);
    unsigned long long* keys = (unsigned long long*)memory;
    const unsigned long long* row = best + (long long)blockIdx.x * count;
    for (int i = threadIdx.x; i < size; i += blockDim.x) keys[i] = i < count ? row[i] : 0;
    sort_keys(keys, size);
    for (int i = threadIdx.x; i < LIST; i += blockDim.x) list[(long long)blockIdx.x * LIST + i] = keys[i];
}
