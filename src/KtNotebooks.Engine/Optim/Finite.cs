using System.Numerics.Tensors;

using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>Looks for values that are no numbers: NaN and infinities spread to everything that is computed from them.</summary>
internal static class Finite
{
    /// <summary>The name of the first F32 or BF16 tensor that holds NaN or an infinity; null: none does.</summary>
    public static string? FirstBroken(IEnumerable<(string Name, Tensor Tensor)> tensors)
    {
        foreach (var (name, tensor) in tensors)
        {
            using var host = tensor.ToHost();
            if (!IsFinite(host)) return name;
        }
        return null;
    }

    private static bool IsFinite(Tensor host)
    {
        if (host.Count == 0) return true;
        var chunks = new Chunks([host]);
        var broken = 0;
        RowParallel.For(chunks.Count, Chunks.Size, (first, last) =>
        {
            for (var chunk = (int)first; chunk < last; chunk++)
            {
                var (_, from, length) = chunks.At(chunk);
                if (host.Type == DType.BF16)
                {
                    foreach (var bits in Chunks.Halves(host, from, length))
                        if ((bits & 0x7F80) == 0x7F80) Interlocked.Exchange(ref broken, 1);
                    continue;
                }
                // The largest magnitude is NaN where one value is.
                if (!float.IsFinite(TensorPrimitives.MaxMagnitude<float>(Chunks.Elements(host, from, length)))) Interlocked.Exchange(ref broken, 1);
            }
        });
        return broken == 0;
    }
}
