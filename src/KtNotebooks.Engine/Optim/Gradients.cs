using System.Numerics.Tensors;

using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>The gradients of a list of parameters, seen as one long vector.</summary>
public static class Gradients
{
    /// <summary>√Σ g², by chunks whose sums are added in double in parameter order; of a card's gradients on the card, with one value read back.</summary>
    public static double Norm(IReadOnlyList<Parameter> parameters)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        // Every card is asked before the first one is waited for.
        Func<double>[] sums = [.. parameters.Select(p => p.Tensor.Grad).OfType<Tensor>().Where(g => g.Count > 0).GroupBy(g => g.Device)
            .Select(gradients => new Chunks([.. gradients])).Select(chunks => chunks.Device.Kind == DeviceKind.Cuda ? OnGpu(chunks) : () => OnHost(chunks))];
        return Math.Sqrt(sums.Sum(sum => sum()));
    }

    /// <summary>
    /// What gradients must be multiplied by so that their norm is at most <paramref name="max"/> (torch's clip_grad_norm_); 1 where max is 0 or below.
    /// </summary>
    public static double ClipScale(double norm, double max) => max <= 0 ? 1 : Math.Min(1, max / (norm + 1e-6));

    /// <summary>Queues the sum; what is returned waits for it.</summary>
    private static Func<double> OnGpu(Chunks chunks)
    {
        using var kernels = new OptimizerKernels(chunks);
        var total = kernels.Squares();
        return () =>
        {
            using (total)
            using (var host = total.ToHost()) return host.Span<double>()[0];
        };
    }

    private static double OnHost(Chunks chunks)
    {
        const int Piece = 1024; // summed in F32
        var sums = new double[chunks.Count];
        RowParallel.For(chunks.Count, Chunks.Size, (first, last) =>
        {
            for (var chunk = (int)first; chunk < last; chunk++)
            {
                var (tensor, from, length) = chunks.At(chunk);
                var elements = Chunks.Elements(chunks.Tensors[tensor], from, length);
                for (var at = 0; at < length; at += Piece)
                    sums[chunk] += TensorPrimitives.SumOfSquares<float>(elements.Slice(at, Math.Min(Piece, length - at)));
            }
        });
        return sums.Sum();
    }
}
