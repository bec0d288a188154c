using System.Buffers.Binary;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
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
        Write(path, [.. tensors.Select(t => (t.Name, t.Tensor.Type, t.Tensor.Shape.ToArray()))], i => tensors[i].Tensor.ToHost(), metadata);
    }

    /// <summary>The same with every tensor made when its turn comes and freed after it, so that a file may be larger than memory.</summary>
    /// <param name="path">Target file.</param>
    /// <param name="tensors">What will be written, in this order.</param>
    /// <param name="make">Makes the i-th, in host memory.</param>
    /// <param name="metadata">Strings beside `format: pt`.</param>
    /// <exception cref="IOException">Not enough disk: said before a byte is written.</exception>
    public static void Write(string path, IReadOnlyList<(string Name, DType Type, long[] Shape)> tensors, Func<int, Tensor> make, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        ArgumentNullException.ThrowIfNull(make);
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
            offset += bytes;
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
            for (var i = 0; i < tensors.Count; i++)
            {
                using var host = make(i);
                if (host.Type != tensors[i].Type || !host.HasShape(tensors[i].Shape)) throw new InvalidOperationException($"{path}: '{tensors[i].Name}' was announced as {tensors[i].Type}[{string.Join(", ", tensors[i].Shape)}], but is {host}");
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
