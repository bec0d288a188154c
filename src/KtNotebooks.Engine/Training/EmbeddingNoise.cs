using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>
/// NEFTune (Jain et al. 2023): embeddings in training get uniform noise in ±alpha / √(L · D), L the tokens of their sequence. A value depends on key, row and
/// column alone, so that neither parts nor threads change it.
/// </summary>
internal static class EmbeddingNoise
{
    /// <summary>F32 [rows of the part, D] on the host.</summary>
    public static Tensor Of(TokenBatch batch, WindowPart part, int width, double alpha, ulong key)
    {
        var noise = Tensor.Empty(DType.F32, part.Rows, width);
        var lengths = new int[batch.Tokens];
        for (var s = 0; s < batch.Sequences; s++)
            lengths.AsSpan(batch.SeqStarts[s]..batch.SeqStarts[s + 1]).Fill(batch.SeqStarts[s + 1] - batch.SeqStarts[s]);
        RowParallel.For(part.Rows, width, (first, last) =>
        {
            for (var row = first; row < last; row++)
            {
                var t = part.From + (int)row;
                var (rowKey, most) = (DropoutMask.Mix(DropoutMask.Mix(key) + (ulong)(batch.FirstRow + t)), alpha / Math.Sqrt((double)lengths[t] * width));
                var values = noise.Row<float>(row);
                for (var i = 0; i < width; i++) values[i] = (float)(most * (((DropoutMask.Mix(rowKey + (ulong)i) >> 11) * (2.0 / (1UL << 53))) - 1));
            }
        });
        return noise;
    }
}
