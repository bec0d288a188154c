using System.Text;

namespace KtNotebooks.Files;

/// <summary>
/// The part of a file that is being looked at: readers take what they have understood from its front and ask for more behind, so that a file of any size needs
/// the room of its longest row.
/// </summary>
/// <param name="stream">The bytes; disposed of with the window.</param>
/// <param name="name">The file, for errors.</param>
internal sealed class ByteWindow(Stream stream, string name) : IDisposable
{
    /// <summary>The most bytes that a reader can need at once.</summary>
    public const int Longest = 1 << 28;

    private byte[] _bytes = new byte[1 << 16];
    private int _from;
    private int _to;

    /// <summary>The file has no more bytes than those of the window.</summary>
    public bool AtEnd { get; private set; }

    /// <summary>What has been read and not been taken.</summary>
    public ReadOnlySpan<byte> Span => _bytes.AsSpan(_from, _to - _from);

    /// <summary>Takes bytes from the front.</summary>
    public void Take(int count) => _from += count;

    /// <summary>Reads more behind; false when there is no more.</summary>
    /// <param name="what">What does not end, for the error: "the row".</param>
    /// <param name="place">Where it begins: file and row.</param>
    /// <exception cref="InvalidDataException">What is wanted at once is too long, or not text.</exception>
    public bool Fill(string what, string place)
    {
        if (AtEnd) return false;
        if (_from > 0)
        {
            Span.CopyTo(_bytes);
            (_from, _to) = (0, _to - _from);
        }
        if (_to == _bytes.Length)
        {
            if (_to >= Longest) throw new InvalidDataException($"{place}: {what} has more than {Longest / 1e6:N0} MB, the most that is read at once; cut"
                + $" it into several");
            Array.Resize(ref _bytes, _bytes.Length * 2);
        }
        try
        {
            var read = stream.ReadAtLeast(_bytes.AsSpan(_to), _bytes.Length - _to, throwOnEndOfStream: false);
            AtEnd = _to + read < _bytes.Length;
            _to += read;
            return read > 0;
        }
        catch (DecoderFallbackException)
        {
            throw new InvalidDataException($"{place}: the byte order mark of {name} says UTF-16 or UTF-32, but what follows is not; save the file as UTF-8");
        }
    }

    /// <summary>The first byte that is none of the given ones, which are taken; null at the end of the file.</summary>
    public byte? FirstExcept(ReadOnlySpan<byte> skipped)
    {
        for (; ; )
        {
            if (Span.IndexOfAnyExcept(skipped) is >= 0 and var at)
            {
                Take(at);
                return Span[0];
            }
            Take(Span.Length);
            if (!Fill("", name)) return null;
        }
    }

    public void Dispose() => stream.Dispose();
}
