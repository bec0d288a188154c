using KtNotebooks.Nn;

namespace KtNotebooks.Training.Objectives;

/// <summary>What objectives of whole answers ask of the rows of a part.</summary>
internal static class SequenceScores
{
    /// <summary>Rows of a sequence.</summary>
    public static Range RowsOf(this TokenBatch part, int sequence) => part.SeqStarts[sequence]..part.SeqStarts[sequence + 1];

    /// <summary>Σ of a sequence's rows.</summary>
    public static double Sum(this TokenBatch part, float[] rows, int sequence)
    {
        double sum = 0;
        foreach (var value in rows.AsSpan(part.RowsOf(sequence))) sum += value;
        return sum;
    }

    /// <summary>Targets of a sequence.</summary>
    public static int TargetsOf(this TokenBatch part, int sequence)
    {
        var count = 0;
        foreach (var label in part.Labels.AsSpan(part.RowsOf(sequence))) count += label >= 0 ? 1 : 0;
        return count;
    }

    /// <summary>Of an example's sequences [first, last) in the window's mean: every target has it for weight; an answer may be cut off whole.</summary>
    public static double ShareOf(this TokenBatch part, int first, int last)
    {
        float share = 0;
        foreach (var weight in part.Weights.AsSpan(part.SeqStarts[first]..part.SeqStarts[last])) share = Math.Max(share, weight);
        return share;
    }

    /// <summary>Gives every target of a sequence a weight.</summary>
    public static void Fill(this TokenBatch part, float[] weights, int sequence, double weight)
    {
        for (var t = part.SeqStarts[sequence]; t < part.SeqStarts[sequence + 1]; t++) weights[t] = part.Labels[t] >= 0 ? (float)weight : 0;
    }
}
