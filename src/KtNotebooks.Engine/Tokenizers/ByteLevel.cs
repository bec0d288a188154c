using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// GPT-2's printable alphabet for bytes: in a tokenizer.json every byte of a token is written as one visible character. Printable Latin-1 bytes
/// stand for themselves, the other 68 for U+0100 onwards in rising order, so a space is Ġ and a newline is Ċ.
/// </summary>
internal static class ByteLevel
{
    private static readonly char[] ToChar = new char[256];
    private static readonly short[] ToByte = new short[0x180];

    static ByteLevel()
    {
        Array.Fill(ToByte, (short)-1);
        var next = 0x100;
        for (var b = 0; b < 256; b++)
        {
            var visible = b is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or (>= 0xAE and <= 0xFF);
            ToChar[b] = (char)(visible ? b : next++);
            ToByte[ToChar[b]] = (short)b;
        }
    }

    public static char CharOf(byte b) => ToChar[b];

    /// <summary>The token's characters for these bytes.</summary>
    public static string Encode(ReadOnlySpan<byte> bytes)
    {
        Span<char> chars = bytes.Length <= 256 ? stackalloc char[bytes.Length] : new char[bytes.Length];
        for (var i = 0; i < bytes.Length; i++)
            chars[i] = ToChar[bytes[i]];
        return new string(chars);
    }

    /// <summary>
    /// The bytes that a token stands for. A token with a character outside the alphabet (a special token such as DeepSeek's, with its full-width
    /// bars) stands for its own UTF-8.
    /// </summary>
    public static byte[] Decode(string token)
    {
        var bytes = new byte[token.Length];
        for (var i = 0; i < token.Length; i++)
        {
            var b = token[i] < ToByte.Length ? ToByte[token[i]] : -1;
            if (b < 0)
                return Encoding.UTF8.GetBytes(token);
            bytes[i] = (byte)b;
        }
        return bytes;
    }
}
