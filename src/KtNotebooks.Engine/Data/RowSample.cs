namespace KtNotebooks.Data;

/// <summary>
/// num_samples: rows drawn at random. Without repeats while there are enough; then every row once and the rest at random with repeats, as upstream.
/// </summary>
internal static class RowSample
{
    private const int Seed = 42; // fixed: the data set is the same in every run

    /// <summary>Bytes that an example takes besides its text: objects, ids and labels of a short row.</summary>
    private const long Overhead = 1024;

    /// <param name="all">Reads all rows; asked twice, for their number and for the ones drawn.</param>
    /// <param name="entry">The set, for errors.</param>
    /// <param name="count">How many are drawn.</param>
    /// <param name="maxSamples">The first so many of those are wanted; null: all.</param>
    /// <exception cref="InvalidDataException">So many do not fit the memory.</exception>
    public static IEnumerable<Row> Of(Func<IEnumerable<Row>> all, DatasetEntry entry, int count, int? maxSamples)
    {
        var rows = all().Count();
        if (rows == 0) return [];
        var wanted = Math.Min(count, maxSamples ?? count);
        var mean = RowReader.FilesOf(entry.Path).Sum(file => new FileInfo(file).Length) / rows;
        // The text stands in UTF-16, as ids and as labels.
        var (needed, memory) = (wanted * (Overhead + (4 * mean)), GC.GetGCMemoryInfo().TotalAvailableMemoryBytes);
        if (needed > memory)
        {
            throw new InvalidDataException($"{DatasetInfo.FileName}, '{entry.Name}': num_samples is {count:N0}; so many rows of {mean:N0} bytes need"
                + $" about {needed / 1e9:N0} GB, and this machine has"
                + $" {memory / 1e9:N0} GB. The set has {rows:N0} rows: give a smaller number, or max_samples.");
        }
        var order = EpochOrder.Of(Seed, epoch: 0, rows);
        var random = new StableRandom(Seed);
        int[] drawn = [.. Enumerable.Range(0, wanted).Select(i => i < rows ? order[i] : random.Next(rows))];
        var kept = drawn.ToHashSet();
        var read = all().Index().Where(row => kept.Contains(row.Index)).ToDictionary(row => row.Index, row => row.Item);
        return drawn.Select(i => read[i]);
    }
}
