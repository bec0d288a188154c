using System.Buffers.Binary;
using System.Text;

namespace KtNotebooks.Weights;

/// <summary>
/// Reads the header of a GGUF file from front to back, through a buffer. Nothing that the header says is believed before the file has room for it: counts,
/// lengths of texts and lists, and how deep lists stand in lists.
/// </summary>
internal sealed class GgufHeader(Stream stream, string path)
{
    /// <summary>The most key-value pairs, and the most tensors; files of llama.cpp have some thousands.</summary>
    public const int MostEntries = 65_536;

    private const int LongestText = 1 << 20, DeepestLists = 8, TextType = 8, ListType = 9;
    private readonly byte[] _number = new byte[8];
    private readonly long _length = stream.Length;

    /// <summary>Where the next byte stands.</summary>
    public long At { get; private set; }

    public uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(4));

    public ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Bytes(8));

    /// <summary>A count of entries of at least so many bytes each.</summary>
    public int Count(string what, int bytesEach)
    {
        var count = U64();
        if (count > MostEntries) throw Bad($"says it has {count:N0} {what}; {MostEntries:N0} are the most");
        if ((long)count * bytesEach > _length - At) throw Bad($"is truncated: it says it has {count:N0} {what}, for which its {_length:N0} bytes have no room");
        return (int)count;
    }

    public string Text()
    {
        var length = U64();
        if (length > LongestText) throw Bad($"has a damaged header: a text of {length:N0} bytes");
        var bytes = new byte[Room((long)length)];
        Fill(bytes);
        return Encoding.UTF8.GetString(bytes);
    }

    /// <summary>The value of a pair; of a list, which is passed over, an empty one.</summary>
    public object Value(uint type, string key)
    {
        if (type == ListType)
        {
            SkipList(key, 1);
            return Array.Empty<byte>();
        }
        return type switch
        {
            0 => Bytes(1)[0],
            1 => (sbyte)Bytes(1)[0],
            2 => BinaryPrimitives.ReadUInt16LittleEndian(Bytes(2)),
            3 => BinaryPrimitives.ReadInt16LittleEndian(Bytes(2)),
            4 => U32(),
            5 => (int)U32(),
            6 => BinaryPrimitives.ReadSingleLittleEndian(Bytes(4)),
            7 => Bytes(1)[0] != 0,
            TextType => Text(),
            10 => U64(),
            11 => (long)U64(),
            12 => BinaryPrimitives.ReadDoubleLittleEndian(Bytes(8)),
            _ => throw Bad($"gives '{key}' the unknown type {type}"),
        };
    }

    /// <summary>Lists (a vocabulary, mostly) are passed over: numbers at once, texts and lists one by one.</summary>
    private void SkipList(string key, int depth)
    {
        if (depth > DeepestLists) throw Bad($"gives '{key}' lists more than {DeepestLists} deep in each other");
        var (type, count) = (U32(), U64());
        var least = type switch
        {
            0 or 1 or 7 => 1,
            2 or 3 => 2,
            4 or 5 or 6 => 4,
            10 or 11 or 12 or TextType => 8,
            ListType => 12,
            _ => throw Bad($"gives '{key}' a list of the unknown type {type}"),
        };
        if (count > (ulong)(_length - At) / (ulong)least)
            throw Bad($"is truncated: it says '{key}' is a list of {count:N0}, for which its {_length:N0} bytes have no room");
        if (type is not (TextType or ListType)) Skip((long)count * least);
        else
        {
            for (ulong i = 0; i < count; i++)
            {
                if (type == ListType) SkipList(key, depth + 1);
                else Skip(U64() is var length && length <= LongestText ? (long)length : throw Bad($"has a damaged header: a text of {length:N0} bytes " +
                    $"in '{key}'"));
            }
        }
    }

    private void Skip(long bytes)
    {
        At += Room(bytes);
        stream.Seek(bytes, SeekOrigin.Current);
    }

    private Span<byte> Bytes(int count)
    {
        var bytes = _number.AsSpan(0, (int)Room(count));
        Fill(bytes);
        return bytes;
    }

    private void Fill(Span<byte> target)
    {
        stream.ReadExactly(target);
        At += target.Length;
    }

    private long Room(long bytes) => bytes <= _length - At ? bytes : throw Bad($"is truncated: its header ends at byte {At + bytes}, the file has {_length}");

    private InvalidDataException Bad(string what) => new($"{path} {what}");
}
