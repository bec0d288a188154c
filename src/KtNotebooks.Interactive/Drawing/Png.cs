using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// Encodes pixels as PNG with a palette of up to 256 colours (<see cref="ColorTable"/>): signature, IHDR, pHYs, PLTE, one IDAT, IEND. Each chunk is length,
/// type, data, CRC-32 of type and data.
/// </summary>
public static class Png
{
    private static readonly uint[] CrcTable = MakeCrcTable();

    /// <param name="rgb">Pixels [height, width, 3], rows from the top.</param>
    /// <param name="width">Pixels in a row.</param>
    /// <param name="height">Rows.</param>
    /// <param name="dotsPerInch">Written into pHYs, so that a picture of double density prints at its natural size.</param>
    public static byte[] Encode(ReadOnlySpan<byte> rgb, int width, int height, double dotsPerInch = 96)
    {
        if (width <= 0 || height <= 0 || rgb.Length != width * height * 3)
            throw new ArgumentException($"[Png] wanted {width} x {height} x 3 bytes with both sizes positive, got {rgb.Length}", nameof(rgb));

        var file = new MemoryStream();
        file.Write([0x89, (byte)'P', (byte)'N', (byte)'G', 0x0D, 0x0A, 0x1A, 0x0A]);

        Span<byte> header = stackalloc byte[13];
        BinaryPrimitives.WriteInt32BigEndian(header, width);
        BinaryPrimitives.WriteInt32BigEndian(header[4..], height);
        header[8] = 8; // bits a pixel
        header[9] = 3; // indices into PLTE
        WriteChunk(file, "IHDR", header);

        Span<byte> density = stackalloc byte[9];
        var dotsPerMetre = (int)Math.Round(dotsPerInch / 0.0254);
        BinaryPrimitives.WriteInt32BigEndian(density, dotsPerMetre);
        BinaryPrimitives.WriteInt32BigEndian(density[4..], dotsPerMetre);
        density[8] = 1; // the unit is the metre
        WriteChunk(file, "pHYs", density);

        var colors = ColorTable.Build(rgb);
        WriteChunk(file, "PLTE", colors.Rgb);
        WriteChunk(file, "IDAT", Compress(colors.Indices, width, height));
        WriteChunk(file, "IEND", []);
        return file.ToArray();
    }

    /// <summary>Every row with filter 0 ("none"), as is right for indices: their differences mean nothing.</summary>
    private static byte[] Compress(ReadOnlySpan<byte> indices, int width, int height)
    {
        var packed = new MemoryStream();
        using (var zlib = new ZLibStream(packed, CompressionLevel.Optimal, leaveOpen: true))
            for (var y = 0; y < height; y++)
            {
                zlib.WriteByte(0);
                zlib.Write(indices.Slice(y * width, width));
            }
        return packed.ToArray();
    }

    private static void WriteChunk(Stream file, string type, ReadOnlySpan<byte> data)
    {
        Span<byte> word = stackalloc byte[4];
        BinaryPrimitives.WriteInt32BigEndian(word, data.Length);
        file.Write(word);
        Span<byte> name = stackalloc byte[4];
        Encoding.ASCII.GetBytes(type, name);
        file.Write(name);
        file.Write(data);
        BinaryPrimitives.WriteUInt32BigEndian(word, ~Crc(data, Crc(name, 0xFFFFFFFF)));
        file.Write(word);
    }

    private static uint Crc(ReadOnlySpan<byte> data, uint crc)
    {
        foreach (var b in data) crc = CrcTable[(byte)(crc ^ b)] ^ (crc >> 8);
        return crc;
    }

    private static uint[] MakeCrcTable()
    {
        var table = new uint[256];
        for (uint n = 0; n < 256; n++)
        {
            var c = n;
            for (var k = 0; k < 8; k++) c = (c & 1) != 0 ? 0xEDB88320 ^ (c >> 1) : c >> 1;
            table[n] = c;
        }
        return table;
    }
}
