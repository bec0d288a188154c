using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>
/// DoRA (Liu et al. 2024) beside a linear layer: y = m / ‖W + s·B·A‖ · (W + s·B·A) x, the lengths those of rows. Trained are m [out] F32 and the pair; the
/// lengths count as constants in the gradient, as in the paper (section 4.3) and in PEFT. ‖W_n + s·(BA)_n‖² = ‖W_n‖² + 2s·B_n·(A W_nᵀ) + s²·B_n (A Aᵀ) B_nᵀ,
/// so no matrix of W's size is made; computed once for each state of the weights (<see cref="WeightVersion"/>).
/// </summary>
public sealed class Dora(Tensor magnitudes) : IDisposable
{
    private (long Version, Tensor Lengths)? _lengths;
    private double[]? _squares; // ‖W_n‖²
    private (long Version, Tensor Weight, Tensor B)? _folded;

    /// <summary>m [out] F32.</summary>
    public Tensor Magnitudes { get; } = magnitudes;

    /// <summary>The start: the lengths of the rows of W, so that nothing changes.</summary>
    /// <param name="weight">W [out, in].</param>
    public static Dora Fresh(Tensor weight)
    {
        ArgumentNullException.ThrowIfNull(weight);
        if (weight.Device.Kind == DeviceKind.Meta) return new Dora(Trained(Tensor.Empty(DType.F32, weight.Device, weight.Dim(0))));
        using var host = Tensor.From([.. Squares(weight).Select(s => (float)Math.Sqrt(s))], weight.Dim(0));
        return new Dora(Trained(host.To(weight.Device)));
    }

    /// <summary>Lengths of the rows of W + s·B·A, [out] F32 where W is; kept here.</summary>
    public Tensor Lengths(Tensor weight, LinearLora lora)
    {
        ArgumentNullException.ThrowIfNull(weight);
        ArgumentNullException.ThrowIfNull(lora);
        if (weight.Device.Kind == DeviceKind.Meta) return Magnitudes;
        if (_lengths is { } known && known.Version == WeightVersion.Current) return known.Lengths;
        var version = WeightVersion.Current;
        _squares ??= Squares(weight);
        using var scope = Tape.Scratch(); // no gradient goes through the lengths
        using var rows = weight.To(weight.Device);
        var (p, g) = (Ops.Linear.Apply(rows, lora.A, DType.F32).ToFloats(), Ops.Linear.Apply(lora.A, lora.A).ToFloats()); // W Aᵀ [out, r], A Aᵀ [r, r]
        var (b, r, s) = (lora.B.ToFloats(), lora.B.Width, (double)lora.Scale);
        var lengths = new float[_squares.Length];
        for (var n = 0; n < lengths.Length; n++)
        {
            double cross = 0, own = 0;
            for (var i = 0; i < r; i++)
            {
                cross += (double)b[(n * r) + i] * p[(n * r) + i];
                for (var j = 0; j < r; j++) own += (double)b[(n * r) + i] * b[(n * r) + j] * g[(i * r) + j];
            }
            lengths[n] = (float)Math.Sqrt(Math.Max(0, _squares[n] + (2 * s * cross) + (s * s * own)));
        }
        _lengths?.Lengths.Dispose();
        using var host = Tensor.From(lengths, lengths.Length);
        _lengths = (version, host.To(weight.Device));
        return _lengths.Value.Lengths;
    }

    /// <summary>m / length · W, and the same of B, for whoever reads a weight beside its layer; kept here.</summary>
    public (Tensor Weight, Tensor B) Folded(Tensor weight, LinearLora lora)
    {
        ArgumentNullException.ThrowIfNull(weight);
        ArgumentNullException.ThrowIfNull(lora);
        if (_folded is { } known && known.Version == WeightVersion.Current) return (known.Weight, known.B);
        var (version, m, c) = (WeightVersion.Current, Magnitudes.ToFloats(), Lengths(weight, lora).ToFloats());
        Tensor Rows(Tensor t)
        {
            var values = t.ToFloats();
            for (var i = 0; i < values.Length; i++) values[i] *= m[i / t.Width] / c[i / t.Width];
            using var host = Tensor.From(values, t.Type, t.Shape);
            return host.To(t.Device);
        }
        _folded?.Weight.Dispose();
        _folded?.B.Dispose();
        _folded = (version, Rows(weight), Rows(lora.B));
        return (_folded.Value.Weight, _folded.Value.B);
    }

    public void Dispose()
    {
        Magnitudes.Dispose();
        _lengths?.Lengths.Dispose();
        _folded?.Weight.Dispose();
        _folded?.B.Dispose();
    }

    private static double[] Squares(Tensor weight)
    {
        using var host = weight.ToHost();
        var squares = new double[host.Rows];
        RowParallel.For(host.Rows, host.Width, (first, last) =>
        {
            var scratch = new float[host.Width];
            for (var n = first; n < last; n++)
                foreach (var value in FloatRows.Load(host, n, scratch)) squares[n] += (double)value * value;
        });
        return squares;
    }

    private static Tensor Trained(Tensor tensor)
    {
        tensor.RequiresGrad = true;
        return tensor;
    }
}
