using System.Text;

using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Weights;

/// <summary>Headers of GGUF files that promise what the file does not hold: one line, at once.</summary>
public sealed class GgufFileTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string File => Path.Combine(_folder.Path, "a.gguf");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Lists_deep_in_lists_end_in_a_line() => Refused("gives 'deep' lists more than 8 deep in each other", Bytes(1, 0, w =>
    {
        Text(w, "deep");
        w.Write(9u);
        for (var depth = 0; depth < 200_000; depth++)
        {
            w.Write(9u);
            w.Write(1ul);
        }
    }));

    [Fact]
    public void Lists_are_passed_over_whatever_they_hold()
    {
        System.IO.File.WriteAllBytes(File, Bytes(2, 0, w =>
        {
            Text(w, "lists");
            w.Write(9u);
            w.Write(9u);
            w.Write(2ul);
            w.Write(8u); // texts
            w.Write(2ul);
            Text(w, "a");
            Text(w, "bcd");
            w.Write(3u); // 16-bit numbers
            w.Write(3ul);
            w.Write(new byte[6]);
            Text(w, "after");
            w.Write(4u);
            w.Write(7u);
        }));
        using var file = new GgufFile(File);
        Assert.Equal(7, file.Number("after"));
        Assert.True(file.Has("lists"));
        Assert.Null(file.Number("lists"));
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(8u)]
    [InlineData(9u)]
    [InlineData(12u)]
    public void A_list_longer_than_its_file_is_named(uint type) =>
        Refused("is truncated: it says 'long' is a list of 1,152,921,504,606,846,976, for which its ", Bytes(1, 0, w =>
    {
        Text(w, "long");
        w.Write(9u);
        w.Write(type);
        w.Write(1ul << 60);
        w.Write(new byte[64]);
    }));

    [Theory]
    [InlineData(1ul << 60, 0ul, "says it has 1,152,921,504,606,846,976 key-value pairs; 65,536 are the most")]
    [InlineData(0ul, ulong.MaxValue, "says it has 18,446,744,073,709,551,615 tensors; 65,536 are the most")]
    [InlineData(60_000ul, 0ul, "is truncated: it says it has 60,000 key-value pairs, for which its 32 bytes have no room")]
    [InlineData(0ul, 60_000ul, "is truncated: it says it has 60,000 tensors, for which its 32 bytes have no room")]
    public void Counts_are_held_against_the_file(ulong pairs, ulong tensors, string message) => Refused(message, Bytes(pairs, tensors, w => w.Write(0ul)));

    [Theory]
    [InlineData(0ul, 4ul, "says tensor 't' has a side of 0; a file of")]
    [InlineData(1ul << 32, 1ul << 32, "says tensor 't' has a side of 4,294,967,296; a file of")]
    [InlineData(1ul << 62, 4ul, "says tensor 't' has a side of 4,611,686,018,427,387,904; a file of")]
    [InlineData(ulong.MaxValue, 1ul, "says tensor 't' has a side of 18,446,744,073,709,551,615; a file of")]
    [InlineData(200ul, 200ul, "says tensor 't' is [200, 200], for which its ")]
    [InlineData(8ul, 9ul, "is truncated: tensor 't' ends at byte ")]
    public void Sides_are_held_against_the_file(ulong width, ulong height, string message) => Refused(message, Tensor(0, [width, height], 0, 64));

    [Fact]
    public void Types_offsets_and_ranks_are_held_against_the_file()
    {
        Refused("is truncated: tensor 't' ends at byte ", Tensor(0, [8, 8], 4000, 8000, cut: 4200));
        Refused("is truncated: tensor 't' begins at byte 18,446,744,073,709,551,615 of the data", Tensor(0, [4], ulong.MaxValue, 64));
        Refused("says tensor 't' has not 1 to 4 dimensions", Tensor(0, [], 0, 64));
        Refused("says tensor 't' has not 1 to 4 dimensions", Tensor(0, [1, 1, 1, 1, 1], 0, 64));
    }

    [Theory]
    [InlineData(0u)]
    [InlineData(uint.MaxValue)]
    public void An_alignment_out_of_range_is_named(uint alignment) =>
        Refused($"has an alignment of {alignment}; whole numbers from 1 to 1,048,576 are read", Bytes(1, 0, w =>
    {
        Text(w, "general.alignment");
        w.Write(4u);
        w.Write(alignment);
    }));

    [Fact]
    public void A_key_twice_a_long_text_and_no_file_are_named()
    {
        Refused("gives the key 'k' twice", Bytes(2, 0, w =>
        {
            for (var i = 0; i < 2; i++)
            {
                Text(w, "k");
                w.Write(4u);
                w.Write(7u);
            }
        }));
        Refused("has a damaged header: a text of 9,223,372,036,854,775,807 bytes", Bytes(1, 0, w =>
        {
            w.Write((ulong)long.MaxValue);
            w.Write(new byte[16]);
        }));
        Assert.StartsWith("/dev/zero: is a pipe, a device or a socket", Assert.Throws<InvalidDataException>(() => new GgufFile("/dev/zero")).Message,
            StringComparison.Ordinal);
        Assert.StartsWith($"{_folder.Path}: is a folder", Assert.Throws<InvalidDataException>(() => new GgufFile(_folder.Path)).Message,
            StringComparison.Ordinal);
    }

    /// <summary>Every prefix of a good file, and every byte of its header changed: a line, or a file that reads.</summary>
    [Fact]
    public void Damage_anywhere_is_a_line()
    {
        var good = Tensor(0, [4, 4], 0, 64);
        var random = new Random(7);
        for (var round = 0; round < 2 * good.Length; round++)
        {
            var bytes = round < good.Length ? good[..round] : [.. good];
            if (round >= good.Length) bytes[round - good.Length] = (byte)random.Next(256);
            System.IO.File.WriteAllBytes(File, bytes);
            try
            {
                using var file = new GgufFile(File);
                foreach (var entry in file.Entries.Values) file.Read(entry.Name, 0, (int)entry.Shape.Aggregate(1L, (p, d) => p * d));
            }
            catch (InvalidDataException error)
            {
                Assert.StartsWith(File, error.Message, StringComparison.Ordinal);
            }
        }
    }

    private void Refused(string message, byte[] bytes)
    {
        System.IO.File.WriteAllBytes(File, bytes);
        Assert.StartsWith($"{File} {message}", Assert.Throws<InvalidDataException>(() => new GgufFile(File)).Message, StringComparison.Ordinal);
    }

    /// <summary>A file with one tensor, its sides in GGUF's order, and so many bytes of data.</summary>
    private static byte[] Tensor(uint type, ulong[] sides, ulong offset, int data, int? cut = null)
    {
        var bytes = Bytes(0, 1, w =>
        {
            Text(w, "t");
            w.Write((uint)sides.Length);
            foreach (var side in sides) w.Write(side);
            w.Write(type);
            w.Write(offset);
            w.Write(new byte[32 + data]);
        });
        return bytes[..Math.Min(bytes.Length, cut ?? bytes.Length)];
    }

    private static byte[] Bytes(ulong pairs, ulong tensors, Action<BinaryWriter> rest)
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        writer.Write("GGUF"u8);
        writer.Write(3u);
        writer.Write(tensors);
        writer.Write(pairs);
        rest(writer);
        return stream.ToArray();
    }

    private static void Text(BinaryWriter writer, string text)
    {
        writer.Write((ulong)text.Length);
        writer.Write(Encoding.UTF8.GetBytes(text));
    }
}
