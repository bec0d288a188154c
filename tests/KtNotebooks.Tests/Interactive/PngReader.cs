using System.Buffers.Binary;
using System.IO.Compression;
using System.Text;

namespace KtNotebooks.Tests.Interactive;

/// <summary>Reads what the PNG encoder writes, by the specification and not by its code: checks every chunk's CRC bit by bit.</summary>
internal sealed record PngReader(int Width, int Height, byte[] Rgb, IReadOnlyList<string> Chunks)
{
    public (byte R, byte G, byte B) this[int x, int y] => (Rgb[(y * Width + x) * 3], Rgb[(y * Width + x) * 3 + 1], Rgb[(y * Width + x) * 3 + 2]);

    public bool IsWhite(int x, int y) => this[x, y] == (255, 255, 255);

    public static PngReader Read(byte[] file)
    {
        if (!file.AsSpan(0, 8).SequenceEqual<byte>([137, 80, 78, 71, 13, 10, 26, 10])) throw new InvalidDataException("no PNG signature");
        var chunks = new List<string>();
        var packed = new MemoryStream();
        byte[] colors = [];
        int width = 0, height = 0, at = 8;
        while (at < file.Length)
        {
            var length = BinaryPrimitives.ReadInt32BigEndian(file.AsSpan(at));
            var type = Encoding.ASCII.GetString(file, at + 4, 4);
            var body = file.AsSpan(at + 8, length);
            if (Crc(file.AsSpan(at + 4, length + 4)) != BinaryPrimitives.ReadUInt32BigEndian(file.AsSpan(at + 8 + length)))
                throw new InvalidDataException($"bad CRC in {type}");
            chunks.Add(type);
            if (type == "IHDR")
            {
                width = BinaryPrimitives.ReadInt32BigEndian(body);
                height = BinaryPrimitives.ReadInt32BigEndian(body[4..]);
                if (!body[8..].SequenceEqual<byte>([8, 3, 0, 0, 0])) throw new InvalidDataException("wanted 8-bit indices without interlace");
            }
            else if (type == "PLTE") colors = body.ToArray();
            else if (type == "IDAT") packed.Write(body);
            at += length + 12;
        }
        packed.Position = 0;
        var raw = new MemoryStream();
        using (var zlib = new ZLibStream(packed, CompressionMode.Decompress)) zlib.CopyTo(raw);
        var bytes = raw.ToArray();
        if (bytes.Length != height * (width + 1)) throw new InvalidDataException("wrong amount of pixels");
        var rgb = new byte[width * height * 3];
        for (var y = 0; y < height; y++)
        {
            if (bytes[y * (width + 1)] != 0) throw new InvalidDataException("this reader knows filter 0 only");
            for (var x = 0; x < width; x++) colors.AsSpan(bytes[y * (width + 1) + 1 + x] * 3, 3).CopyTo(rgb.AsSpan((y * width + x) * 3));
        }
        return new(width, height, rgb, chunks);
    }

    private static uint Crc(ReadOnlySpan<byte> data)
    {
        var crc = 0xFFFFFFFFu;
        foreach (var b in data)
        {
            crc ^= b;
            for (var k = 0; k < 8; k++) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0xEDB88320u : crc >> 1;
        }
        return ~crc;
    }
}
