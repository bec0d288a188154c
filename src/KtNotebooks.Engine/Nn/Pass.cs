using KtNotebooks.Ops;

namespace KtNotebooks.Nn;

/// <summary>
/// What the layers need to know about the rows in hand: a stretch of a token batch, made of whole sequences.
/// </summary>
/// <param name="Positions">Position of each row in its sequence, [T].</param>
/// <param name="SeqStarts">[N+1].</param>
/// <param name="FirstRow">Number of the first row in the whole stream: dropout masks do not depend on chunking.</param>
/// <param name="DropoutKey">Changes every step; 0 with <paramref name="Training"/> false.</param>
/// <param name="Training">Dropout acts.</param>
/// <param name="Cache">Keys and values of earlier rows, or null.</param>
/// <param name="ValueUnused">The stage is computed again for its gradients alone: what it adds to the stream will not be read, and the last product before
/// may be left out.</param>
/// <param name="Adapter">The name of one of the adapters that were loaded under names, or <see cref="BaseModel"/>; null: the one that is attached for
/// training, if there is one.</param>
public sealed record Pass(int[] Positions, int[] SeqStarts, int FirstRow = 0, ulong DropoutKey = 0, bool Training = false, KvCache? Cache = null,
    bool ValueUnused = false, string? Adapter = null)
{
    /// <summary>Asks for the base without any adapter.</summary>
    public const string BaseModel = "base";

    public static Pass Inference(TokenBatch batch, KvCache? cache = null, string? adapter = null) =>
        new(batch.Positions, batch.SeqStarts, Cache: cache, Adapter: adapter);

    /// <summary>Rows [from, to) of a batch; attention wants whole sequences, other layers any rows.</summary>
    public static Pass ForTraining(TokenBatch batch, int from, int to, ulong dropoutKey)
    {
        var starts = batch.SeqStarts.Where(s => s >= from && s <= to).Select(s => s - from).ToArray();
        return new Pass(batch.Positions[from..to], starts, from, dropoutKey, Training: true);
    }

    /// <summary>The dropout mask of a module in this pass.</summary>
    public DropoutMask Mask(float p, ulong moduleKey) => Training && p > 0 ? new DropoutMask(p, DropoutMask.Mix(DropoutKey ^ moduleKey), FirstRow)
        : DropoutMask.None;
}
