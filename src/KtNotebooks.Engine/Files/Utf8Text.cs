using System.Text;
using System.Text.Unicode;

namespace KtNotebooks.Files;

/// <summary>
/// Text files as UTF-8, whatever their byte order mark says they are: UTF-8, UTF-16 or UTF-32. UTF-16 without a mark is told by its zero bytes and refused,
/// because it could be either order.
/// </summary>
public static class Utf8Text
{
    /// <summary>
    /// The rest of a stream as UTF-8 without a mark. Bytes that are not valid in UTF-16 or UTF-32 throw <see cref="DecoderFallbackException"/> when they are
    /// read.
    /// </summary>
    /// <param name="stream">A stream that can seek, at its start.</param>
    /// <param name="name">The file, for errors.</param>
    /// <exception cref="InvalidDataException">UTF-16 without a mark.</exception>
    public static Stream Of(Stream stream, string name)
    {
        ArgumentNullException.ThrowIfNull(stream);
        Span<byte> start = stackalloc byte[4];
        start = start[..stream.ReadAtLeast(start, start.Length, throwOnEndOfStream: false)];
        var (encoding, mark) = Marked(start, name);
        stream.Position = mark;
        return encoding is null ? stream : Encoding.CreateTranscodingStream(stream, encoding, new UTF8Encoding(encoderShouldEmitUTF8Identifier: false));
    }

    /// <summary>"UTF-16", "UTF-16BE" …, when a file's mark says so; null for UTF-8.</summary>
    public static string? OtherEncoding(string path)
    {
        using var stream = RegularFile.Open(path);
        Span<byte> start = stackalloc byte[4];
        start = start[..stream.ReadAtLeast(start, start.Length, throwOnEndOfStream: false)];
        return Marked(start, path).Encoding?.WebName.ToUpperInvariant();
    }

    /// <summary>Bytes as valid UTF-8 without a mark.</summary>
    /// <exception cref="InvalidDataException">They are no text in any of the encodings.</exception>
    public static ReadOnlyMemory<byte> Of(ReadOnlyMemory<byte> bytes, string name)
    {
        var (encoding, mark) = Marked(bytes.Span, name);
        bytes = bytes[mark..];
        try
        {
            if (encoding is not null) return Encoding.Convert(encoding, Encoding.UTF8, bytes.ToArray());
        }
        catch (DecoderFallbackException)
        {
            throw Invalid(name);
        }
        return Utf8.IsValid(bytes.Span) ? bytes : throw Invalid(name);
    }

    /// <summary>The error of bytes that are no text.</summary>
    /// <param name="place">File, and line or row where known.</param>
    public static InvalidDataException Invalid(string place) => new($"{place}: not UTF-8 text (and no byte order mark says UTF-16). Save the file as UTF-8.");

    /// <summary>What the mark says, null for UTF-8, and the mark's length.</summary>
    private static (Encoding? Encoding, int Mark) Marked(ReadOnlySpan<byte> start, string name) => start switch
    {
        [0xEF, 0xBB, 0xBF, ..] => (null, 3),
        [0xFF, 0xFE, 0, 0, ..] => (new UTF32Encoding(bigEndian: false, byteOrderMark: false, throwOnInvalidCharacters: true), 4),
        [0, 0, 0xFE, 0xFF, ..] => (new UTF32Encoding(bigEndian: true, byteOrderMark: false, throwOnInvalidCharacters: true), 4),
        [0xFF, 0xFE, ..] => (new UnicodeEncoding(bigEndian: false, byteOrderMark: false, throwOnInvalidBytes: true), 2),
        [0xFE, 0xFF, ..] => (new UnicodeEncoding(bigEndian: true, byteOrderMark: false, throwOnInvalidBytes: true), 2),
        [0, not 0, ..] or [not 0, 0, ..] => throw new InvalidDataException($"{name}: looks like UTF-16 without a byte order mark; save the file as UTF-8,"
            + $" or as UTF-16 with the mark"),
        _ => (null, 0),
    };
}
