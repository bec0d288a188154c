using KtNotebooks.Interop;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>What is kept of freed memory: little, the newest, and for buffers of about the same size.</summary>
public sealed class KeptPagesTests
{
    private const long Megabyte = 1L << 20;
    private readonly List<(nint Pointer, long Length)> _freed = [];

    [Fact]
    public void Windows_of_nearly_the_same_length_share_their_memory()
    {
        var kept = Room();
        var (length, other) = (kept.LengthOf(4_214_784), kept.LengthOf(4_222_976)); // hidden states of 4,116 and 4,124 tokens, 256 wide
        Assert.Equal(length, other);
        kept.Give(1, length);
        Assert.Equal(1, kept.Take(other));
        Assert.Equal(0, kept.Take(other)); // once
        Assert.Equal(0, Room().Take(length));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4 << 20)]
    [InlineData((4 << 20) + 1)]
    [InlineData((31 << 20) + 17)]
    [InlineData((33L << 20) + 1)]
    [InlineData(5L << 30)]
    public void A_length_holds_the_bytes_in_whole_pages_and_at_most_an_eighth_more(long bytes)
    {
        var length = Room().LengthOf(bytes);
        Assert.InRange(length, bytes, Math.Max(bytes + (bytes / 8), Environment.SystemPageSize));
        Assert.Equal(0, length % Environment.SystemPageSize);
        Assert.Equal(length, Room().LengthOf(length)); // what is given back is found under its own length
    }

    [Fact]
    public void Sizes_that_no_one_asks_for_any_more_make_room()
    {
        var kept = Room();
        for (nint i = 1; i <= 16; i++) kept.Give(i, 8 * Megabyte);
        Assert.Empty(_freed);
        kept.Give(17, 12 * Megabyte);
        Assert.Equal([(1, 8 * Megabyte), (2, 8 * Megabyte)], _freed); // kept longest; bytes stay at or below what may be kept
        Assert.Equal(17, kept.Take(12 * Megabyte));
        Assert.Equal(16, kept.Take(8 * Megabyte)); // the one freed last is the warmest
        kept.Clear();
        Assert.Equal([.. Enumerable.Range(1, 15).Select(i => ((nint)i, 8 * Megabyte))], _freed);
    }

    [Fact]
    public void What_is_too_long_goes_back_at_once()
    {
        var kept = Room();
        kept.Give(5, 33 * Megabyte);
        Assert.Equal([((nint)5, 33 * Megabyte)], _freed);
        Assert.Equal(0, kept.Take(33 * Megabyte));
    }

    private KeptPages Room() => new(capacity: 128 * Megabyte, each: 32 * Megabyte, (pointer, length) => _freed.Add((pointer, length)));
}
