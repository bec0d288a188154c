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
    public static void Write(string path, IReadOnlyList<(string Name, DType Type, long[] Shape)> tensors, Func<int, Tensor> make,
        IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        ArgumentNullException.ThrowIfNull(make);
        var plan = new SafetensorsPlan(tensors, metadata);
        AtomicFile.Write(path, plan.FileBytes, stream =>
        {
            stream.Write(plan.Header.Span);
            for (var i = 0; i < tensors.Count; i++)
            {
                using var host = make(i);
                if (host.Type != tensors[i].Type || !host.HasShape(tensors[i].Shape))
                    throw new InvalidOperationException($"{path}: '{tensors[i].Name}' was announced as {tensors[i].Type}["
                        + $"{string.Join(", ", tensors[i].Shape)}], but is {host}");
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
