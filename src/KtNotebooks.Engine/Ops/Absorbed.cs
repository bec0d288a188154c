using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Queries that meet latent rows instead of keys, because q · (W_UK c) = (q W_UK) · c: out[t, h] = [q_nope W_UK,h (R), q_rope turned by its position (r)].
/// q [T, H·(n+r)]; W = kv_b_proj [H·(n+v), R], of each head first n rows W_UK, then v rows W_UV; angles [T, r/2, 2] F32; optional low-rank pair of W: A
/// [rank, R], B [H·(n+v), rank] F32, which acts as W + scale · B A without being added; out [T, H, R+r] in q's type. DeepSeek-V2, section 2.1.2. Inference
/// only.
/// </summary>
internal sealed class AbsorbedQueries(MlaShape shape, float scale) : InferenceOp
{
    public static Tensor Apply(Tensor q, Tensor angles, Tensor w, (Tensor A, Tensor B, float Scale)? low, MlaShape shape) =>
        low is { } l ? new AbsorbedQueries(shape, l.Scale).Run(q, angles, w, l.A, l.B)[0] : new AbsorbedQueries(shape, 0).Run(q, angles, w)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (q, angles, w) = (inputs[0], inputs[1], inputs[2]);
        ExpectFloat(q, "q");
        Expect(q, "q", q.Type, q.Dim(0), shape.H * shape.Head);
        Expect(angles, "angles", DType.F32, q.Dim(0), shape.Rope / 2, 2);
        AbsorbedHeads.Check(this, shape, w, inputs[3..], Expect);
        return new Frame(inputs, [Allocate(q, q.Type, q.Dim(0), shape.H, w.Width + shape.Rope)]);
    }

    protected override void Plain(Frame f)
    {
        var (q, angles, w, rank) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), AbsorbedHeads.Sum(f.Inputs[2], f.Inputs[3..], scale), f.Inputs[2].Width);
        var (T, H, n, r) = (f.Inputs[0].Rows, shape.H, shape.Nope, shape.Rope);
        var y = new float[f.Outputs[0].Count];
        for (var t = 0; t < T; t++)
            for (var h = 0; h < H; h++)
            {
                var query = q.AsSpan(((t * H) + h) * (n + r), n + r);
                var target = y.AsSpan(((t * H) + h) * (rank + r), rank + r);
                for (var c = 0; c < rank; c++)
                {
                    double sum = 0;
                    for (var k = 0; k < n; k++) sum += query[k] * w[(((h * (n + shape.Value)) + k) * rank) + c];
                    target[c] = (float)sum;
                }
                LatentRows.Rotate(query[n..], angles.AsSpan(t * r, r), target[rank..]);
            }
        f.Outputs[0].Store(y);
    }

    /// <summary>A grouped product with one group a head; its rows lie head by head.</summary>
    protected override void Cpu(Frame f)
    {
        var (q, w, T, H, n, r) = (f.Inputs[0], f.Inputs[2], f.Inputs[0].Rows, shape.H, shape.Nope, shape.Rope);
        using var x = Allocate(q, q.Type, H * T, n);
        using var product = Allocate(q, q.Type, H * T, w.Width);
        for (var h = 0; h < H; h++)
        {
            using var head = x.Slice(h * T, T);
            Columns.Copy(q, h * shape.Head, head, 0, n);
        }
        using var heads = new AbsorbedHeads(shape, w, f.Inputs[3..], values: false);
        using var low = heads.A is { } a ? Allocate(q, DType.F32, H * T, a.N) : null;
        GroupedMatmul.InputGrad(heads.Offsets(T), x, heads.W, heads.A, heads.B, scale, low, product, null);
        using var angles = f.Inputs[1].View(T, r);
        using var y = f.Outputs[0].View(T, H * (w.Width + r));
        RowParallel.For(T, y.Width, (first, last) =>
        {
            var (query, target, line) = (new float[q.Width], new float[y.Width], new float[w.Width]);
            for (var t = first; t < last; t++)
            {
                var source = FloatRows.Load(q, t, query);
                for (var h = 0; h < H; h++)
                {
                    FloatRows.Load(product, (h * T) + t, line).CopyTo(target.AsSpan(h * (w.Width + r)));
                    LatentRows.Rotate(source.Slice((h * shape.Head) + n, r), angles.Row<float>(t), target.AsSpan((h * (w.Width + r)) + w.Width, r));
                }
                FloatRows.Store(y, t, target);
            }
        });
    }

    protected override void Cuda(Frame f)
    {
        var (q, angles, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        using var w = f.Inputs[2].To(q.Type);
        var (T, R, n, rank) = (q.Rows, w.Width, shape.Nope, f.Inputs.Length > 3 ? (int)f.Inputs[3].Dim(0) : 0);
        void Launch(AbsorbedForm form, int rows, int threads, int shared) => AbsorbedKernels.Kernel(q, "absorb_queries", form).AllowShared(shared)
            .Launch((shape.H, (R + 63) / 64, (T + rows - 1) / rows), threads, shared, q.Pointer, angles.Pointer, w.Pointer,
            rank > 0 ? f.Inputs[3].Pointer : 0, rank > 0 ? f.Inputs[4].Pointer : 0, y.Pointer, T, shape.H, n, shape.Rope, shape.Value, R, rank, scale);
        if (q.Type == DType.BF16 && n % 16 == 0 && R % 64 == 0 && shape.Head % 8 == 0 && n <= 512)
        {
            Launch(AbsorbedForm.Tiles, 16, 128, (((16 * (n + 8)) + (n * 72)) * DType.BF16.Size()) + (16 * rank * sizeof(float)));
            return;
        }
        var form = AbsorbedKernels.Form(T);
        Launch(form, AbsorbedKernels.Rows(form), 256, AbsorbedKernels.Rows(form) * (n + rank) * sizeof(float));
    }
}

/// <summary>
/// What comes after: out[t, h] = context[t, h] W_UV,hᵀ. context [T, H, R]; W and its low-rank pair as in <see cref="AbsorbedQueries"/>; out [T, H·v].
/// Inference only.
/// </summary>
internal sealed class AbsorbedValues(MlaShape shape, float scale) : InferenceOp
{
    public static Tensor Apply(Tensor context, Tensor w, (Tensor A, Tensor B, float Scale)? low, MlaShape shape) =>
        low is { } l ? new AbsorbedValues(shape, l.Scale).Run(context, w, l.A, l.B)[0] : new AbsorbedValues(shape, 0).Run(context, w)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (context, w) = (inputs[0], inputs[1]);
        ExpectFloat(context, "context");
        Expect(context, "context", context.Type, context.Dim(0), shape.H, w.Width);
        AbsorbedHeads.Check(this, shape, w, inputs[2..], Expect);
        return new Frame(inputs, [Allocate(context, context.Type, context.Dim(0), shape.H * shape.Value)]);
    }

    protected override void Plain(Frame f)
    {
        var (x, w, R) = (f.Inputs[0].ToFloats(), AbsorbedHeads.Sum(f.Inputs[1], f.Inputs[2..], scale), f.Inputs[1].Width);
        var (T, H, n, v) = (f.Outputs[0].Rows, shape.H, shape.Nope, shape.Value);
        var y = new float[f.Outputs[0].Count];
        for (var t = 0; t < T; t++)
            for (var h = 0; h < H; h++)
                for (var j = 0; j < v; j++)
                {
                    double sum = 0;
                    for (var c = 0; c < R; c++) sum += x[(((t * H) + h) * R) + c] * w[(((h * (n + v)) + n + j) * R) + c];
                    y[(((t * H) + h) * v) + j] = (float)sum;
                }
        f.Outputs[0].Store(y);
    }

    protected override void Cpu(Frame f)
    {
        var (context, w, y, H, v) = (f.Inputs[0], f.Inputs[1], f.Outputs[0], shape.H, shape.Value);
        var (T, R) = (y.Rows, w.Width);
        using var rows = context.View(T, H * R);
        using var x = Allocate(context, context.Type, H * T, R);
        using var product = Allocate(context, context.Type, H * T, v);
        for (var h = 0; h < H; h++)
        {
            using var head = x.Slice(h * T, T);
            Columns.Copy(rows, h * R, head, 0, R);
        }
        using var heads = new AbsorbedHeads(shape, w, f.Inputs[2..], values: true);
        using var low = heads.A is { } a ? Allocate(context, DType.F32, H * T, a.N) : null;
        GroupedMatmul.Forward(heads.Offsets(T), x, null, heads.W, heads.A, heads.B, scale, low, product);
        for (var h = 0; h < H; h++)
        {
            using var head = product.Slice(h * T, T);
            Columns.Copy(head, 0, y, h * v, v);
        }
    }

    protected override void Cuda(Frame f)
    {
        var (context, y) = (f.Inputs[0], f.Outputs[0]);
        using var w = f.Inputs[1].To(context.Type);
        using var rows = context.View(context.Dim(0) * shape.H, w.Width);
        using var a = f.Inputs.Length > 2 ? f.Inputs[2].To(context.Type) : null;
        using var p = a is null ? null : Allocate(context, DType.F32, rows.Dim(0), a.Dim(0));
        if (p is not null) DeviceMatmul.Run(rows, false, a!, true, p);
        var T = y.Rows;
        void Launch(AbsorbedForm form, int outputs, int passes, int threads) => AbsorbedKernels.Kernel(context, "absorb_values", form)
            .Launch((shape.H, (shape.Value + outputs - 1) / outputs, passes), threads, 0, context.Pointer, w.Pointer, p?.Pointer ?? 0,
            p is null ? 0 : f.Inputs[3].Pointer, y.Pointer, T, shape.H, shape.Nope, shape.Value, w.Width, p?.Width ?? 0, scale);
        var packed = w.Width % 8 == 0 && (context.Pointer | w.Pointer) % (8 * context.Type.Size()) == 0;
        if (packed && context.Type == DType.BF16 && w.Width % 32 == 0 && shape.Value % 16 == 0)
        {
            var form = T <= 8 ? AbsorbedForm.FewTiles : AbsorbedForm.Tiles;
            Launch(form, 16, (T + AbsorbedKernels.Rows(form) - 1) / AbsorbedKernels.Rows(form), 128);
            return;
        }
        Launch(AbsorbedKernels.Form(T, packed), 8, 1, 256);
    }
}

/// <summary>kv_b_proj seen head by head: the rows of W_UK or of W_UV of each, with the same rows of B.</summary>
internal sealed class AbsorbedHeads : IDisposable
{
    private readonly Tensor[] _weights;
    private readonly Tensor[] _b = [];
    private readonly int[] _offsets;

    public AbsorbedHeads(MlaShape shape, Tensor w, Tensor[] low, bool values)
    {
        _offsets = new int[shape.H + 1];
        var (from, count) = values ? (shape.Nope, shape.Value) : (0, shape.Nope);
        _weights = Slices(w);
        W = Matrices.Each(_weights);
        if (low.Length == 0) return;
        _b = Slices(low[1]);
        A = Matrices.Each([.. Enumerable.Repeat(low[0], shape.H)]);
        B = Matrices.Each(_b);

        Tensor[] Slices(Tensor all) => [.. Enumerable.Range(0, shape.H).Select(h => all.Slice((h * (shape.Nope + shape.Value)) + from, count))];
    }

    public Matrices W { get; }

    public Matrices? A { get; }

    public Matrices? B { get; }

    /// <summary>T rows a head.</summary>
    public ReadOnlySpan<int> Offsets(int T)
    {
        for (var h = 0; h < _offsets.Length; h++) _offsets[h] = h * T;
        return _offsets;
    }

    public static void Check(Op op, MlaShape shape, Tensor w, Tensor[] low, ExpectShape expect)
    {
        if (!w.Type.IsFloat()) throw new ArgumentException($"[{op.Name}] W must be F32 or BF16, but is {w}");
        expect(w, "W", w.Type, shape.H * (shape.Nope + shape.Value), w.Width);
        if (low.Length == 0) return;
        expect(low[0], "A", DType.F32, low[0].Dim(0), w.Width);
        expect(low[1], "B", DType.F32, w.Dim(0), low[0].Dim(0));
    }

    /// <summary>W + scale · B A, for the definition.</summary>
    public static double[] Sum(Tensor w, Tensor[] low, float scale)
    {
        var sum = Array.ConvertAll(w.ToFloats(), x => (double)x);
        if (low.Length == 0) return sum;
        var (a, b, R, rank) = (low[0].ToFloats(), low[1].ToFloats(), w.Width, low[1].Width);
        for (var i = 0; i < sum.Length; i++)
            for (var k = 0; k < rank; k++) sum[i] += (double)scale * b[(i / R * rank) + k] * a[(k * R) + (i % R)];
        return sum;
    }

    public void Dispose()
    {
        foreach (var weight in _weights) weight.Dispose();
        foreach (var b in _b) b.Dispose();
    }
}

internal delegate void ExpectShape(Tensor tensor, string name, DType type, params ReadOnlySpan<long> shape);
