// What the CUDA text of every storage format is written with. A format brings
//   Code8, Scale      eight neighbours of a row as stored, and what scales them; elements in order take sizeof(Code8) bytes an eight
//   code8, scale8     loads them: elements [n, k … k + count) of a matrix with rows of K, count ≤ 8, k a multiple of 8
//   decode8           to floats, or all eight to four pairs of BF16, rounded once
// so that a kernel may load long before it decodes. dequantize8 (Dequantize.cu) does both.

// Eight codes of a byte each.
struct Bytes8
{
    unsigned long long bits;
    __device__ __forceinline__ unsigned int operator[](int j) const { return (unsigned int)(bits >> (8 * j)) & 255; }
};

// Fewer at the end of rows that are no multiple of eight.
__device__ __forceinline__ Bytes8 bytes8(const unsigned char* from, bool whole, int count)
{
    if (whole) return {*(const unsigned long long*)from};
    Bytes8 codes = {0};
    for (int j = 0; j < count; j++) codes.bits |= (unsigned long long)from[j] << (8 * j);
    return codes;
}

template <class C, class S>
__device__ __forceinline__ void by_floats(const C& code, const S& scale, unsigned int* pairs)
{
    float v[8];
    decode8(code, scale, 8, v);
    for (int j = 0; j < 4; j++) pairs[j] = pack_bf16(v[2 * j], v[2 * j + 1]);
}

