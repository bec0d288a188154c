using System.Buffers.Binary;

using KtNotebooks.Files;

namespace KtNotebooks.Weights;

/// <summary>One tensor of a GGUF file. Shape is row-major, as elsewhere here: GGUF's own order is the reverse.</summary>
public sealed record GgufEntry(string Name, uint Type, long[] Shape, long Offset);

/// <summary>
/// llama.cpp's GGUF, versions 2 and 3, little-endian: magic, version, counts, key-value pairs, tensor infos, and data aligned to `general.alignment` (32).
/// Tensors of types F32, F16, BF16 and Q8_0 (blocks of 32: an F16 scale and 32 signed bytes) are read as F32.
/// </summary>
public sealed class GgufFile : IDisposable
{
    private const int LargestAlignment = 1 << 20;
    private readonly Dictionary<string, GgufEntry> _entries = [];
    private readonly Dictionary<string, object> _values = [];
    private readonly FileStream _file;
    private readonly long _length;
    private readonly long _data;

    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">No GGUF file, truncated, or damaged.</exception>
    public GgufFile(string path)
    {
        Path = path;
        _file = RegularFile.Open(path, "a GGUF file");
        try
        {
            _length = _file.Length;
            var header = new GgufHeader(_file, path);
            if (_length < 24 || header.U32() != 0x46554747) throw Bad("is no GGUF file: it does not start with GGUF");
            var version = header.U32();
            if (version is not (2 or 3)) throw Bad($"is GGUF version {version}; versions 2 and 3 are read");
            var (tensors, pairs) = (header.Count("tensors", 24), header.Count("key-value pairs", 13));
            for (var i = 0; i < pairs; i++)
            {
                var key = header.Text();
                if (!_values.TryAdd(key, header.Value(header.U32(), key))) throw Bad($"gives the key '{key}' twice");
            }
            for (var i = 0; i < tensors; i++) ReadEntry(header);
            var alignment = _values.ContainsKey("general.alignment") ? Number("general.alignment") ?? 0 : 32;
            if (!(alignment >= 1 && alignment <= LargestAlignment && alignment == Math.Floor(alignment)))
                throw Bad($"has an alignment of {alignment}; whole numbers from 1 to {LargestAlignment:N0} are read");
            _data = (header.At + (long)alignment - 1) / (long)alignment * (long)alignment;
            foreach (var entry in _entries.Values)
                if (entry.Offset > _length - _data || BytesOf(entry) > _length - _data - entry.Offset)
                    throw Bad($"is truncated: tensor '{entry.Name}' ends at byte {(Int128)_data + entry.Offset + BytesOf(entry)}, the file has {_length}");
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

    /// <summary>The key is there, whatever its value.</summary>
    public bool Has(string key) => _values.ContainsKey(key);

    /// <summary>A key's text; null when it is absent or something else.</summary>
    public string? TextOf(string key) => _values.GetValueOrDefault(key) as string;

    /// <summary>A key's number; null when it is absent or something else.</summary>
    public double? Number(string key) =>
        _values.GetValueOrDefault(key) switch
        {
            null or string or byte[] => null,
            var value => Convert.ToDouble(value, System.Globalization.CultureInfo.InvariantCulture)
        };

    /// <summary>Elements [first, first + count) of a tensor, in whole blocks.</summary>
    /// <exception cref="InvalidDataException">A type that is not read, or a truncated file.</exception>
    public float[] Read(string name, long first, int count)
    {
        var entry = _entries[name];
        var (block, bytes) = BlockOf(entry.Type) ?? throw Bad($"stores tensor '{name}' as {TypeName(entry.Type)}; F32, F16, BF16 and Q8_0 are read");
        if (first % block != 0 || count % block != 0 || entry.Shape[^1] % block != 0)
            throw Bad($"stores tensor '{name}' in blocks of {block}, which do not divide its rows");
        if ((long)count / block * bytes > Array.MaxLength) throw Bad($"stores {count:N0} values of tensor '{name}' in one matrix, which are too many to read");
        var raw = new byte[count / block * bytes];
        Fill(raw, _data + entry.Offset + (first / block * bytes), $"tensor '{name}'");
        var values = new float[count];
        for (var b = 0; b < count / block; b++)
        {
            var at = raw.AsSpan(b * bytes, bytes);
            if (block == 1) values[b] = entry.Type switch
            {
                0 => BinaryPrimitives.ReadSingleLittleEndian(at),
                1 => (float)BinaryPrimitives.ReadHalfLittleEndian(at),
                _ => Tensors.Bf16.ToFloat(BinaryPrimitives.ReadUInt16LittleEndian(at))
            };
            else
            {
                var scale = (float)BinaryPrimitives.ReadHalfLittleEndian(at);
                for (var i = 0; i < block; i++) values[(b * block) + i] = scale * (sbyte)at[2 + i];
            }
        }
        return values;
    }

    public void Dispose() => _file.Dispose();

    private void ReadEntry(GgufHeader header)
    {
        var name = header.Text();
        var shape = new long[header.U32() is >= 1 and <= 4 and var rank ? rank : throw Bad($"says tensor '{name}' has not 1 to 4 dimensions")];
        Int128 count = 1;
        for (var d = shape.Length - 1; d >= 0; d--)
        {
            var side = header.U64();
            // No type of llama.cpp takes less than a bit a value, so that no side can have more values than the file has bits.
            if (side == 0 || side > 8 * (ulong)_length)
                throw Bad($"says tensor '{name}' has a side of {side:N0}; a file of {_length:N0} bytes can hold sides from 1 to {8 * _length:N0}");
            shape[d] = (long)side;
            count *= side;
        }
        if (count > 8 * (Int128)_length) throw Bad($"says tensor '{name}' is [{string.Join(", ", shape)}], for which its {_length:N0} bytes have no room");
        var type = header.U32();
        var offset = header.U64();
        if (offset > (ulong)_length) throw Bad($"is truncated: tensor '{name}' begins at byte {offset:N0} of the data, the file has {_length:N0}");
        if (!_entries.TryAdd(name, new GgufEntry(name, type, shape, (long)offset))) throw Bad($"has tensor '{name}' twice");
    }

    /// <summary>Values and bytes of a block; nothing for a type that is not read.</summary>
    private static (int Values, int Bytes)? BlockOf(uint type) => type switch { 0 => (1, 4), 1 or 30 => (1, 2), 8 => (32, 34), _ => null };

    /// <summary>0 of a type that is not read.</summary>
    private static Int128 BytesOf(GgufEntry entry) =>
        BlockOf(entry.Type) is var (values, bytes) ? entry.Shape.Aggregate((Int128)1, (product, side) => product * side) / values * bytes : 0;

    private void Fill(byte[] target, long at, string what)
    {
        if (at < 0 || at + target.Length > _length) throw Bad($"is truncated: {what} ends at byte {at + target.Length}, the file has {_length}");
        for (var done = 0; done < target.Length;)
            done += RandomAccess.Read(_file.SafeFileHandle, target.AsSpan(done), at + done) is > 0 and var n ? n : throw Bad($"is truncated in {what}");
    }

    private InvalidDataException Bad(string what) => new($"{Path} {what}");
}
