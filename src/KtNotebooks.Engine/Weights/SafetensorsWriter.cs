using System.Buffers.Binary;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>Writes safetensors files: to a temporary name first, renamed when whole, so that a reader never meets half a file.</summary>
public static unsafe class SafetensorsWriter
{
    /// <param name="path">Target file.</param>
    /// <param name="tensors">Written in the given order; from any device.</param>
    /// <param name="metadata">Strings beside `format: pt`.</param>
    /// <exception cref="IOException">Not enough disk: said before a byte is written.</exception>
    public static void Write(string path, IReadOnlyList<(string Name, Tensor Tensor)> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        var about = new JsonObject { ["format"] = "pt" };
        foreach (var (key, value) in metadata ?? new Dictionary<string, string>()) about[key] = value;
        var header = new JsonObject { ["__metadata__"] = about };
        long offset = 0;
        foreach (var (name, tensor) in tensors)
        {
            header[name] = new JsonObject
            {
                ["dtype"] = tensor.Type == DType.F8E4M3 ? "F8_E4M3" : tensor.Type.ToString(),
                ["shape"] = new JsonArray([.. tensor.Shape.ToArray().Select(d => JsonValue.Create(d))]),
                ["data_offsets"] = new JsonArray(offset, offset + tensor.ByteLength),
            };
            offset += tensor.ByteLength;
        }
        var json = JsonSerializer.SerializeToUtf8Bytes(header);
        var padded = (json.Length + 7) / 8 * 8; // data starts aligned to 8
        AtomicFile.Write(path, 8 + padded + offset, stream =>
        {
            Span<byte> length = stackalloc byte[8];
            BinaryPrimitives.WriteInt64LittleEndian(length, padded);
            stream.Write(length);
            stream.Write(json);
            for (var i = json.Length; i < padded; i++) stream.WriteByte((byte)' ');
            foreach (var (_, tensor) in tensors)
            {
                using var host = tensor.ToHost();
                for (long at = 0; at < host.ByteLength;)
                {
                    var part = (int)Math.Min(1 << 24, host.ByteLength - at);
                    stream.Write(new ReadOnlySpan<byte>((byte*)host.Pointer + at, part));
                    at += part;
                }
            }
        });
    }
}
