using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>BF16 [N, K], without scales: what most checkpoints are in.</summary>
internal sealed class Bf16Format() : StorageFormat("bf16", 1, DType.BF16)
{
    private protected override string Cuda => """
        typedef Pack<bf16, 8> Codes8;

        __device__ __forceinline__ Codes8 codes8(const unsigned char* data, const unsigned char* scales, int n, int k, int N, int K, int count)
        {
            const bf16* from = (const bf16*)data + (long long)n * K + k;
            if (K % 8 == 0) return *(const Codes8*)from;
            Codes8 c;
            for (int j = 0; j < count; j++) c.v[j] = from[j];
            return c;
        }

        __device__ __forceinline__ void decode8(const Codes8& c, int count, float* v)
        {
            for (int j = 0; j < count; j++) v[j] = widen(c.v[j]);
        }

        __device__ __forceinline__ void decode8(const Codes8& c, unsigned int* pairs) { *(Codes8*)pairs = c; }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target) => Bf16.Widen(data.Row<ushort>(row), target);
}
