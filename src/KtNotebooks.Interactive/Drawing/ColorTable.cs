namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// The colours of a picture as a table of at most 256, and each pixel as an index into it: a third of the bytes to compress, and files half as large. Charts
/// have fewer colours, except for blends where several lines cross; the rarest of those take the nearest colour that stayed.
/// </summary>
internal sealed class ColorTable
{
    private ColorTable(byte[] rgb, byte[] indices) => (Rgb, Indices) = (rgb, indices);

    /// <summary>Three bytes a colour, the most frequent first.</summary>
    public byte[] Rgb { get; }

    /// <summary>One byte a pixel.</summary>
    public byte[] Indices { get; }

    public static ColorTable Build(ReadOnlySpan<byte> rgb)
    {
        var counts = new Dictionary<int, int>();
        for (var i = 0; i < rgb.Length;)
        {
            var color = At(rgb, i);
            var run = i;
            do i += 3; while (i < rgb.Length && At(rgb, i) == color);
            counts[color] = counts.GetValueOrDefault(color) + (i - run) / 3;
        }
        var frequent = counts.OrderByDescending(c => c.Value).ThenBy(c => c.Key).Select(c => c.Key).ToArray();
        var kept = frequent.AsSpan(0, Math.Min(256, frequent.Length));
        var index = new Dictionary<int, byte>(frequent.Length);
        var table = new byte[kept.Length * 3];
        for (var i = 0; i < frequent.Length; i++)
        {
            index[frequent[i]] = i < kept.Length ? (byte)i : Nearest(frequent[i], kept);
            if (i < kept.Length) (table[i * 3], table[i * 3 + 1], table[i * 3 + 2]) = ((byte)(kept[i] >> 16), (byte)(kept[i] >> 8), (byte)kept[i]);
        }

        var indices = new byte[rgb.Length / 3];
        var (last, lastIndex) = (-1, (byte)0);
        for (var i = 0; i < indices.Length; i++)
        {
            var color = At(rgb, i * 3);
            if (color != last) (last, lastIndex) = (color, index[color]);
            indices[i] = lastIndex;
        }
        return new(table, indices);
    }

    private static int At(ReadOnlySpan<byte> rgb, int i) => rgb[i] << 16 | rgb[i + 1] << 8 | rgb[i + 2];

    private static byte Nearest(int color, ReadOnlySpan<int> kept)
    {
        var (best, least) = (0, int.MaxValue);
        for (var i = 0; i < kept.Length; i++)
        {
            int dr = (color >> 16) - (kept[i] >> 16), dg = (color >> 8 & 255) - (kept[i] >> 8 & 255), db = (color & 255) - (kept[i] & 255);
            var distance = dr * dr + dg * dg + db * db;
            if (distance < least) (best, least) = (i, distance);
        }
        return (byte)best;
    }
}
