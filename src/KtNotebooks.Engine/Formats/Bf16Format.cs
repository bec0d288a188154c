using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>BF16 [N, K], without scales: what most checkpoints are in.</summary>
internal sealed class Bf16Format() : StorageFormat("bf16", 1, DType.BF16)
{
    private protected override string Cuda => """
        __device__ void dequantize8(const unsigned char* data, const unsigned char* scales, int n, int k, int N, int K, int count, float* v)
        {
            const bf16* from = (const bf16*)data + (long long)n * K + k;
            if (K % 8 == 0)
            {
                Pack<bf16, 8> values = *(const Pack<bf16, 8>*)from;
                for (int j = 0; j < 8; j++) v[j] = widen(values.v[j]);
            }
            else
                for (int j = 0; j < count; j++) v[j] = widen(from[j]);
        }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target) => Bf16.Widen(data.Row<ushort>(row), target);
}
