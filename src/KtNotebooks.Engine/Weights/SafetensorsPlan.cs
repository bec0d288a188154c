using System.Buffers.Binary;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// What a safetensors file will hold: its header, and where each tensor's bytes go. Known before the first byte is there, so a file can be filled from many
/// threads.
/// </summary>
public sealed class SafetensorsPlan
{
    private readonly Dictionary<string, long> _begin = [];

    /// <param name="tensors">In the order of the file.</param>
    /// <param name="metadata">Strings beside `format: pt`.</param>
    public SafetensorsPlan(IReadOnlyList<(string Name, DType Type, long[] Shape)> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        var about = new JsonObject { ["format"] = "pt" };
        foreach (var (key, value) in metadata ?? new Dictionary<string, string>()) about[key] = value;
        var header = new JsonObject { ["__metadata__"] = about };
        long offset = 0;
        foreach (var (name, type, shape) in tensors)
        {
            var bytes = shape.Aggregate((long)type.Size(), (product, dim) => checked(product * dim));
            header[name] = new JsonObject
            {
                ["dtype"] = type == DType.F8E4M3 ? "F8_E4M3" : type.ToString(),
                ["shape"] = new JsonArray([.. shape.Select(d => JsonValue.Create(d))]),
                ["data_offsets"] = new JsonArray(offset, offset + bytes),
            };
            _begin.Add(name, offset);
            offset += bytes;
        }
        var json = JsonSerializer.SerializeToUtf8Bytes(header);
        var padded = (json.Length + 7) / 8 * 8; // data starts aligned to 8
        var start = new byte[8 + padded];
        start.AsSpan(8).Fill((byte)' ');
        BinaryPrimitives.WriteInt64LittleEndian(start, padded);
        json.CopyTo(start, 8);
        (Header, DataBytes) = (start, offset);
    }

    /// <summary>The file up to its data.</summary>
    public ReadOnlyMemory<byte> Header { get; }

    public long DataBytes { get; }

    /// <summary>Length of the whole file.</summary>
    public long FileBytes => Header.Length + DataBytes;

    /// <summary>Where a tensor begins in the file.</summary>
    public long At(string name) => Header.Length + _begin[name];

    /// <summary>Is there a file of this length with this header?</summary>
    public bool IsAt(string path)
    {
        if (!File.Exists(path)) return false;
        using var stream = RegularFile.Open(path, "a safetensors file");
        if (stream.Length != FileBytes) return false;
        var start = new byte[Header.Length];
        return stream.ReadAtLeast(start, start.Length, throwOnEndOfStream: false) == start.Length && start.AsSpan().SequenceEqual(Header.Span);
    }
}
