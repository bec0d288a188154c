using System.Numerics.Tensors;

using KtNotebooks.Tensors;

namespace KtNotebooks.Autograd;

/// <summary>target += source, the one addition that the tape does. Same shape; F32 or BF16 each (sums in F32, rounded to target's type).</summary>
public static class GradientSum
{
    public static void AddInto(Tensor target, Tensor source)
    {
        ArgumentNullException.ThrowIfNull(target);
        ArgumentNullException.ThrowIfNull(source);
        if (!target.HasShape(source.Shape)) throw new ArgumentException($"[GradientSum] {source} cannot be added to {target}");
        if (source.Device != target.Device) throw new ArgumentException($"[GradientSum] source is on {source.Device}, target on {target.Device}");
        if (target.Device.Kind == DeviceKind.Meta) return;
        if (target.Device.Kind == DeviceKind.Cuda)
        {
            DeviceMath.AddInto(target, source);
            return;
        }
        var width = target.Width;
        RowParallel.For(target.Rows, width, (first, last) =>
        {
            var a = new float[width];
            var b = new float[width];
            for (var row = first; row < last; row++)
            {
                var sum = FloatRows.Target(target, row, a);
                TensorPrimitives.Add(FloatRows.Load(target, row, a), FloatRows.Load(source, row, b), sum);
                FloatRows.Store(target, row, sum);
            }
        });
    }
}
