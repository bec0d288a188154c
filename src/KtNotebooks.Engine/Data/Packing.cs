
namespace KtNotebooks.Data;

/// <summary>Whether rows share a sequence: each its own; several that see each other as one text does (packing); several that do not (neat_packing).</summary>
public enum PackingMode
{
    None,
    Shared,
    Neat,
}

/// <summary>
/// Puts short rows together into sequences, with LLaMA-Factory's rule: of each batch of rows the longest that still fits joins, until none does. Positions
/// begin anew with each row. Upstream fills a sequence up with padding; here nothing is padded.
/// </summary>
public static class Packing
{
    /// <summary>
    /// Rows by their lengths in bins of a capacity; of equal lengths the later row is taken first. Rows longer than the capacity are left out.
    /// </summary>
    public static List<int[]> Bins(IReadOnlyList<int> lengths, int capacity)
    {
        // stable: equal lengths in their order
        List<int> left = [.. Enumerable.Range(0, lengths.Count).Where(i => lengths[i] <= capacity).OrderBy(i => lengths[i])];
        var bins = new List<int[]>();
        while (left.Count > 0)
        {
            List<int> bin = [];
            for (var room = capacity; ;)
            {
                // The last row that is not longer than the room.
                int low = 0, high = left.Count;
                while (low < high)
                {
                    var middle = (low + high) / 2;
                    (low, high) = lengths[left[middle]] <= room ? (middle + 1, high) : (low, middle);
                }
                if (low == 0)
                    break;
                bin.Add(left[low - 1]);
                room -= lengths[left[low - 1]];
                left.RemoveAt(low - 1);
            }
            bins.Add([.. bin]);
        }
        return bins;
    }

    /// <param name="rows">Rows encoded with cutoff_len - 1, as upstream, so that each fits.</param>
    /// <param name="mode">Shared or neat; none gives the rows back.</param>
    /// <param name="capacity">The most tokens of a sequence: cutoff_len - 1.</param>
    /// <param name="horizon">preprocessing_batch_size: rows that are packed together.</param>
    public static EncodedExample[] Pack(IReadOnlyList<EncodedExample> rows, PackingMode mode, int capacity, int horizon = 1000) => mode == PackingMode.None
        ? [.. rows]
        : [.. rows.Chunk(horizon).SelectMany(batch =>
            Bins([.. batch.Select(row => row.Ids.Length)], capacity).Select(bin => Join([.. bin.Select(i => batch[i])], mode)))];

    private static EncodedExample Join(EncodedExample[] rows, PackingMode mode)
    {
        if (Array.Find(rows, row => row.Weight != rows[0].Weight) is { } other)
            throw new InvalidDataException($"{other.Source}: has the weight {other.Weight}, but shares a sequence with a row of weight {rows[0].Weight}; "
                + "rows of several weights cannot be packed: packing=false");
        var starts = new int[rows.Length];
        for (var i = 1; i < rows.Length; i++)
            starts[i] = starts[i - 1] + rows[i - 1].Ids.Length;
        return new EncodedExample([.. rows.SelectMany(r => r.Ids)], [.. rows.SelectMany(r => r.Labels)], rows.Length == 1 ? rows[0].Source
            : $"{rows[0].Source} and {rows.Length - 1} more")
        {
            Starts = starts,
            Apart = mode == PackingMode.Neat,
            Weight = rows[0].Weight,
        };
    }
}
