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
        var plan = new SafetensorsPlan([.. tensors.Select(t => (t.Name, t.Tensor.Type, t.Tensor.Shape.ToArray()))], metadata);
        AtomicFile.Write(path, plan.FileBytes, stream =>
        {
            stream.Write(plan.Header.Span);
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
