using System.Numerics;

namespace KtNotebooks.Interop;

/// <summary>
/// A little of the large memory that is freed, kept for the next buffer of about that size: an op's buffers come and go, and fresh pages cost more than the
/// op. Windows of a run differ by some tokens, and so do their buffers by some pages: lengths are rounded up to eighths of a power of two (pages beyond a
/// buffer's end are never touched and cost nothing), and what was kept longest goes first when the room is full.
/// </summary>
/// <param name="capacity">Bytes kept in all.</param>
/// <param name="each">The longest stretch that is kept.</param>
/// <param name="free">Gives a stretch (pointer, length) back to the system.</param>
internal sealed class KeptPages(long capacity, long each, Action<nint, long> free)
{
    private readonly Lock _gate = new();
    private readonly LinkedList<(nint Pointer, long Length)> _kept = []; // the last freed first
    private long _bytes;

    /// <summary>The length that memory for so many bytes has, whole pages: an eighth of a power of two where it may be kept.</summary>
    public long LengthOf(long bytes)
    {
        long page = Environment.SystemPageSize;
        var step = bytes > each ? page : Math.Max(page, 1L << Math.Max(0, BitOperations.Log2((ulong)Math.Max(bytes, 1)) - 3));
        return RoundUp(bytes, step);
    }

    /// <summary>A kept stretch of exactly this length (<see cref="LengthOf"/>), the one that is warmest in the caches; 0: none.</summary>
    public nint Take(long length)
    {
        lock (_gate)
            for (var node = _kept.First; node is not null; node = node.Next)
                if (node.Value.Length == length)
                {
                    _kept.Remove(node);
                    _bytes -= length;
                    return node.Value.Pointer;
                }
        return 0;
    }

    /// <summary>Keeps a stretch in place of older ones, or gives it back where it is too long.</summary>
    public void Give(nint pointer, long length)
    {
        if (length > each)
        {
            free(pointer, length);
            return;
        }
        lock (_gate)
        {
            _kept.AddFirst((pointer, length));
            _bytes += length;
        }
        Keep(capacity);
    }

    /// <summary>Gives all of it back.</summary>
    public void Clear() => Keep(0);

    /// <summary>Gives the oldest back until so many bytes are left; outside the lock, for the system takes its time.</summary>
    private void Keep(long bytes)
    {
        while (true)
        {
            nint pointer;
            long length;
            lock (_gate)
            {
                if (_bytes <= bytes) return;
                (pointer, length) = _kept.Last!.Value;
                _kept.RemoveLast();
                _bytes -= length;
            }
            free(pointer, length);
        }
    }

    /// <summary>The next multiple of a unit.</summary>
    internal static long RoundUp(long bytes, long unit) => (bytes + unit - 1) / unit * unit;
}
