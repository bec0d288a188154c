using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Turns ids into text one by one, for streaming: a character whose bytes are spread over tokens comes out whole with its last byte. All that
/// it has returned, joined, equals <see cref="Tokenizer.Decode(ReadOnlySpan{int}, bool)"/>. One for each stream; not for several threads.
/// </summary>
/// <param name="tokenizer">Whose ids come.</param>
/// <param name="skipSpecial">Leave special tokens out.</param>
public sealed class StreamDecoder(Tokenizer tokenizer, bool skipSpecial = false)
{
    private readonly Decoder _utf8 = Encoding.UTF8.GetDecoder();

    /// <summary>Takes the next id and returns the characters that are now whole, possibly none.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The id is not in the vocabulary.</exception>
    public string Push(int id) => skipSpecial && tokenizer.IsSpecial(id) ? "" : Convert(tokenizer.Bytes(id), flush: false);

    /// <summary>Ends the stream: bytes that never became a character come out as U+FFFD. The decoder can then be used anew.</summary>
    public string Flush() => Convert([], flush: true);

    private string Convert(ReadOnlySpan<byte> bytes, bool flush)
    {
        Span<char> chars = stackalloc char[bytes.Length + 4 <= 256 ? 256 : bytes.Length + 4];
        var count = _utf8.GetChars(bytes, chars, flush);
        return chars[..count].ToString();
    }
}
