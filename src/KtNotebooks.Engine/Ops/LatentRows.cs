using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// What a token leaves in the cache of latent attention: row t = [RMS norm of its latent (R), rotary key turned by its position (r)]. x [T, R + r] is what the
/// projection gave, F32 or BF16; w [R] F32 the norm's weight; angles [T, r/2, 2] F32. Inference only.
/// </summary>
internal sealed class LatentRows(float eps) : InferenceOp
{
    public static Tensor Apply(Tensor x, Tensor w, Tensor angles, float eps) => new LatentRows(eps).Run(x, w, angles)[0];

    /// <summary>
    /// cos and sin (times the attenuation) of each pair at each row's position, F32 [T, r/2, 2], on a device: looked up there once a pass where it is a card.
    /// The caller disposes it.
    /// </summary>
    public static Tensor Angles(RotaryTable table, PassLists lists, Device device) => device.Kind != DeviceKind.Cuda
        ? Angles(table, lists.Rows.Positions, device)
        : lists.Once(device, table, () =>
        {
            var all = table.On(device, lists.Rows.Longest);
            using var rows = all.View(all.Dim(0), all.Count / all.Dim(0));
            var looked = Tensor.Empty(DType.F32, device, lists.Rows.Positions.Length, table.Pairs, 2);
            using var flat = looked.View(looked.Dim(0), rows.Width);
            RouteKernels.Gather(rows, lists.On(device, "positions", r => r.Positions), 0, flat.Rows, 1, flat);
            return looked;
        }).Alias();

    /// <summary>The same, by the host.</summary>
    public static Tensor Angles(RotaryTable table, int[] positions, Device device)
    {
        var (cos, sin) = table.Upto(positions.Length == 0 ? 1 : positions.Max() + 1);
        using var host = Tensor.Empty(DType.F32, positions.Length, table.Pairs, 2);
        var angles = host.Span<float>();
        for (var t = 0; t < positions.Length; t++)
            for (var i = 0; i < table.Pairs; i++)
                (angles[2 * ((t * table.Pairs) + i)], angles[(2 * ((t * table.Pairs) + i)) + 1]) = (cos.Span[(positions[t] * table.Pairs) + i],
                    sin.Span[(positions[t] * table.Pairs) + i]);
        return host.To(device);
    }

    /// <summary>Pairs (2i, 2i + 1) of a row turned by its angles.</summary>
    public static void Rotate(ReadOnlySpan<float> source, ReadOnlySpan<float> angles, Span<float> target)
    {
        for (var i = 0; i < source.Length; i += 2)
            (target[i], target[i + 1]) = ((source[i] * angles[i]) - (source[i + 1] * angles[i + 1]), (source[i] * angles[i + 1]) + (source[i + 1] * angles[i]));
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (x, w) = (inputs[0], inputs[1]);
        ExpectFloat(x, "x");
        Expect(w, "w", DType.F32, w.Width);
        Expect(inputs[2], "angles", DType.F32, x.Dim(0), (x.Width - w.Width) / 2, 2);
        return new Frame(inputs, [Allocate(x, x.Type, x.Shape)]);
    }

    protected override void Plain(Frame f)
    {
        var (x, w, rows) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        var latent = w.Width;
        using var angles = f.Inputs[2].View(x.Dim(0), x.Width - latent);
        RowParallel.For(rows.Rows, rows.Width, (first, last) =>
        {
            var (scratch, target) = (new float[x.Width], new float[x.Width]);
            for (var t = first; t < last; t++)
            {
                var source = FloatRows.Load(x, t, scratch);
                RmsNorm.Row(source[..latent], w.Span<float>(), eps, target.AsSpan(0, latent));
                Rotate(source[latent..], angles.Row<float>(t), target.AsSpan(latent));
                FloatRows.Store(rows, t, target);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (x, w, angles, rows) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0]);
        var packed = w.Width % 8 == 0 && x.Width % 8 == 0 && (x.Pointer | w.Pointer | rows.Pointer) % 32 == 0;
        AbsorbedKernels.Kernel(x, "latent_rows", AbsorbedKernels.Form(1, packed))
            .Launch(rows.Dim(0), 128, x.Pointer, w.Pointer, angles.Pointer, rows.Pointer, w.Width, x.Width - w.Width, eps);
    }
}
