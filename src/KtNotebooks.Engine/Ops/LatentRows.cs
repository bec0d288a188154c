using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// What a token leaves in the cache of latent attention: row t = [latent (R), rotary key turned by its position (r)]. latent [T, R], key [T, r], one float
/// type; angles [T, r/2, 2] F32. Inference only.
/// </summary>
internal sealed class LatentRows : InferenceOp
{
    public static Tensor Apply(Tensor latent, Tensor key, Tensor angles) => new LatentRows().Run(latent, key, angles)[0];

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
        var (latent, key) = (inputs[0], inputs[1]);
        ExpectFloat(latent, "latent");
        Expect(key, "key", latent.Type, latent.Dim(0), key.Width);
        Expect(inputs[2], "angles", DType.F32, latent.Dim(0), key.Width / 2, 2);
        return new Frame(inputs, [Allocate(latent, latent.Type, latent.Dim(0), latent.Width + key.Width)]);
    }

    protected override void Plain(Frame f)
    {
        var (latent, key, rows) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        using var angles = f.Inputs[2].View(key.Dim(0), key.Width);
        RowParallel.For(rows.Rows, rows.Width, (first, last) =>
        {
            var (scratch, target) = (new float[Math.Max(latent.Width, key.Width)], new float[rows.Width]);
            for (var t = first; t < last; t++)
            {
                FloatRows.Load(latent, t, scratch).CopyTo(target);
                Rotate(FloatRows.Load(key, t, scratch), angles.Row<float>(t), target.AsSpan(latent.Width));
                FloatRows.Store(rows, t, target);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (latent, key, angles, rows) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0]);
        AbsorbedKernels.Kernel(latent, "latent_rows", AbsorbedForm.OneRow)
            .Launch(rows.Dim(0), 128, latent.Pointer, key.Pointer, angles.Pointer, rows.Pointer, latent.Width, key.Width);
    }
}
