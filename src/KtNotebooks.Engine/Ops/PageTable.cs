namespace KtNotebooks.Ops;

/// <summary>
/// Where the rows of a pass's sequences lie in the tensors of a paged cache: key j of sequence s is row Pages[FirstPage[s] + j / Rows] · Rows + j % Rows.
/// One table serves all layers.
/// </summary>
/// <param name="counts">Keys of each sequence, those of its new rows included.</param>
/// <param name="firstPage">Where the pages of each sequence begin in <paramref name="pages"/>.</param>
/// <param name="pages">Page numbers, sequence by sequence.</param>
internal sealed class PageTable(int[] counts, int[] firstPage, int[] pages)
{
    /// <summary>Rows of a page: steps of the kernels (16, 32 or 64 keys) never cross a border.</summary>
    public const int Rows = 64;

    public int[] Counts => counts;

    public int[] FirstPage => firstPage;

    public int[] Pages => pages;

    /// <summary>Pages that so many rows need.</summary>
    public static int PagesOf(long rows) => checked((int)((rows + Rows - 1) / Rows));

    public long RowOf(int sequence, int key) => ((long)pages[firstPage[sequence] + (key / Rows)] * Rows) + (key % Rows);
}
