using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>BF16 [N, K], without scales: what most checkpoints are in.</summary>
internal sealed class Bf16Format() : StorageFormat("bf16", 1, DType.BF16)
{
    private protected override string Cuda => """
        typedef Pack<bf16, 8> Code8;
        struct Scale {};

        __device__ __forceinline__ Code8 code8(const unsigned char* data, int n, int k, int K, int count)
        {
            const bf16* from = (const bf16*)data + (long long)n * K + k;
            if (K % 8 == 0) return *(const Code8*)from;
            Code8 c;
            for (int j = 0; j < count; j++) c.v[j] = from[j];
            return c;
        }

        __device__ __forceinline__ Scale scale8(const unsigned char*, int, int, int) { return {}; }

        __device__ __forceinline__ void decode8(const Code8& c, Scale, int count, float* v)
        {
            for (int j = 0; j < count; j++) v[j] = widen(c.v[j]);
        }

        __device__ __forceinline__ void decode8(const Code8& c, Scale, unsigned int* pairs) { *(Code8*)pairs = c; }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target) => Bf16.Widen(data.Row<ushort>(row), target);
}
