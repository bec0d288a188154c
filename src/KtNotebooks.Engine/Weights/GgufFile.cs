using System.Buffers.Binary;
using System.Text;

using Microsoft.Win32.SafeHandles;

namespace KtNotebooks.Weights;

/// <summary>One tensor of a GGUF file. Shape is row-major, as elsewhere here: GGUF's own order is the reverse.</summary>
public sealed record GgufEntry(string Name, uint Type, long[] Shape, long Offset);

/// <summary>
/// llama.cpp's GGUF, versions 2 and 3, little-endian: magic, version, counts, key-value pairs, tensor infos, and data aligned to `general.alignment` (32). Tensors of types F32, F16, BF16 and Q8_0 (blocks of 32: an
/// F16 scale and 32 signed bytes) are read as F32.
/// </summary>
public sealed class GgufFile : IDisposable
{
    private readonly Dictionary<string, GgufEntry> _entries = [];
    private readonly Dictionary<string, object> _values = [];
    private readonly SafeFileHandle _file;
    private readonly long _length;
    private readonly long _data;
    private long _at;

    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">No GGUF file, truncated, or damaged.</exception>
    public GgufFile(string path)
    {
        Path = path;
        if (!File.Exists(path)) throw new FileNotFoundException($"{path}: no such file", path);
        _file = File.OpenHandle(path);
        try
        {
            _length = RandomAccess.GetLength(_file);
            if (_length < 24 || U32() != 0x46554747) throw Bad("is no GGUF file: it does not start with GGUF");
            var version = U32();
            if (version is not (2 or 3)) throw Bad($"is GGUF version {version}; versions 2 and 3 are read");
            var (tensors, pairs) = (U64(), U64());
            for (ulong i = 0; i < pairs; i++)
            {
                var key = Text();
                _values[key] = Value(U32(), key);
            }
            for (ulong i = 0; i < tensors; i++)
            {
                var name = Text();
                var shape = new long[U32() is <= 4 and var rank ? rank : throw Bad($"says tensor '{name}' has more than 4 dimensions")];
                for (var d = shape.Length - 1; d >= 0; d--) shape[d] = checked((long)U64());
                if (!_entries.TryAdd(name, new GgufEntry(name, U32(), shape, checked((long)U64())))) throw Bad($"has tensor '{name}' twice");
            }
            var alignment = Number("general.alignment") is { } given ? (long)given : 32;
            if (alignment < 1) throw Bad($"has an alignment of {alignment}");
            _data = (_at + alignment - 1) / alignment * alignment;
        }
        catch (OverflowException)
        {
            Dispose();
            throw Bad("has a damaged header: a size is too large");
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public string Path { get; }

    public IReadOnlyDictionary<string, GgufEntry> Entries => _entries;

    public static string TypeName(uint type) => type switch { 0 => "F32", 1 => "F16", 8 => "Q8_0", 30 => "BF16", _ => $"ggml type {type}" };

    /// <summary>A key's text; null when it is absent or something else.</summary>
    public string? TextOf(string key) => _values.GetValueOrDefault(key) as string;

    /// <summary>A key's number; null when it is absent or something else.</summary>
    public double? Number(string key) => _values.GetValueOrDefault(key) switch { null or string or byte[] => null, var value => Convert.ToDouble(value, System.Globalization.CultureInfo.InvariantCulture) };

    /// <summary>Elements [first, first + count) of a tensor, in whole blocks.</summary>
    /// <exception cref="InvalidDataException">A type that is not read, or a truncated file.</exception>
    public float[] Read(string name, long first, int count)
    {
        var entry = _entries[name];
        var (block, bytes) = entry.Type switch { 0 => (1, 4), 1 or 30 => (1, 2), 8 => (32, 34), _ => throw Bad($"stores tensor '{name}' as {TypeName(entry.Type)}; F32, F16, BF16 and Q8_0 are read") };
        if (first % block != 0 || count % block != 0 || entry.Shape[^1] % block != 0) throw Bad($"stores tensor '{name}' in blocks of {block}, which do not divide its rows");
        var raw = new byte[checked(count / block * bytes)];
        Fill(raw, _data + entry.Offset + (first / block * bytes), $"tensor '{name}'");
        var values = new float[count];
        for (var b = 0; b < count / block; b++)
        {
            var at = raw.AsSpan(b * bytes, bytes);
            if (block == 1) values[b] = entry.Type switch { 0 => BinaryPrimitives.ReadSingleLittleEndian(at), 1 => (float)BinaryPrimitives.ReadHalfLittleEndian(at), _ => Tensors.Bf16.ToFloat(BinaryPrimitives.ReadUInt16LittleEndian(at)) };
            else
            {
                var scale = (float)BinaryPrimitives.ReadHalfLittleEndian(at);
                for (var i = 0; i < block; i++) values[(b * block) + i] = scale * (sbyte)at[2 + i];
            }
        }
        return values;
    }

    public void Dispose() => _file.Dispose();

    private object Value(uint type, string key) => type switch
    {
        0 => Bytes(1)[0],
        1 => (sbyte)Bytes(1)[0],
        2 => BinaryPrimitives.ReadUInt16LittleEndian(Bytes(2)),
        3 => BinaryPrimitives.ReadInt16LittleEndian(Bytes(2)),
        4 => U32(),
        5 => (int)U32(),
        6 => BinaryPrimitives.ReadSingleLittleEndian(Bytes(4)),
        7 => Bytes(1)[0] != 0,
        8 => Text(),
        9 => SkipList(key),
        10 => U64(),
        11 => (long)U64(),
        12 => BinaryPrimitives.ReadDoubleLittleEndian(Bytes(8)),
        _ => throw Bad($"gives '{key}' the unknown type {type}"),
    };

    /// <summary>Lists (a vocabulary, mostly) are passed over.</summary>
    private byte[] SkipList(string key)
    {
        var (type, count) = (U32(), U64());
        for (ulong i = 0; i < count; i++) Value(type, key);
        return [];
    }

    private uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Bytes(4));

    private ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Bytes(8));

    private string Text() => U64() is var length && length <= 1 << 20 ? Encoding.UTF8.GetString(Bytes((int)length)) : throw Bad($"has a damaged header: a text of {length} bytes");

    private byte[] Bytes(int count)
    {
        var bytes = new byte[count];
        Fill(bytes, _at, "its header");
        _at += count;
        return bytes;
    }

    private void Fill(byte[] target, long at, string what)
    {
        if (at < 0 || at + target.Length > _length) throw Bad($"is truncated: {what} ends at byte {at + target.Length}, the file has {_length}");
        for (var done = 0; done < target.Length;)
            done += RandomAccess.Read(_file, target.AsSpan(done), at + done) is > 0 and var n ? n : throw Bad($"is truncated in {what}");
    }

    private InvalidDataException Bad(string what) => new($"{Path} {what}");
}
