using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// <see cref="RoutedExperts"/> and its gradient on a card, one group of experts after the other: what a group needs is allocated for its rows alone, so
/// memory does not grow with the bank. Rows are fetched through the routes inside the products, nothing is gathered. The gradient computes gate and up
/// again from x instead of keeping them: two products more, R × 2I elements less.
/// </summary>
internal sealed class RoutedExpertsCuda(ExpertSet experts, RouteKey dropoutKey)
{
    /// <summary>Dequantized matrices at a time of experts that nobody placed: they are copied to the card for one call, right everywhere and slow.</summary>
    private const long UploadedBytes = 256L << 20;

    private readonly int _d = experts.Gate.K, _i = experts.Inner;

    /// <summary>Rows of all experts as the host sees them, [E+1]; read back once a forward.</summary>
    public int[] Offsets { get; private set; } = [];

    /// <summary>
    /// Bytes that forward or backward takes beside inputs and outputs while its largest group is open, for whoever plans: gate, up, h (backward) and a row
    /// of D, what a row has of low rank, dequantized matrices, padded pairs and the sum over groups. Nobody knows how tokens will choose: a group is taken to
    /// get twice its share of the rows at most.
    /// </summary>
    public static long ScratchBytes(ExpertSet experts, Tensor x, long routes, bool backward)
    {
        var card = experts.OnGpu!;
        var (size, type, groups) = (x.Type.Size(), x.Type, card.Groups);
        var rows = Math.Min(routes, 2 * routes * groups.Max(g => g.Count) / experts.Count);
        long row = ((backward ? 3 : 2) * experts.Inner) + experts.Gate.K, pairs = 0;
        if (experts.Lora is { } lora)
        {
            (pairs, var both, var down) = DeviceExpertLora.Sizes(lora, type);
            row += backward ? 2 * (both + down) : both + down;
            if (lora.Dropout > 0) row += 2 * Math.Max(experts.Gate.K, experts.Inner); // masked copies of what goes in
        }
        var sum = groups.Count > 1 && type != DType.F32 ? x.Count * sizeof(float) : 0;
        return (rows * row * size) + pairs + sum + groups.Max(g => card.OpenBytes(g, type));
    }

    /// <summary>Fills saved = offsets, routes, rowOf and, unless nobody will look at it, y.</summary>
    public void Forward(Frame f, bool valueUnused)
    {
        var (x, weights, indices, y) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Outputs[0]);
        RouteKernels.Sort(indices, experts.Count, f.Saved[0], f.Saved[1], f.Saved[2]);
        Offsets = f.Saved[0].ToInts();
        if (valueUnused || indices.Count == 0)
        {
            Memory.Clear(y);
            return;
        }
        using var host = HostExperts.Begin(experts, dropoutKey, Offsets, x, weights, f.Saved[1]);
        host?.Forward();
        using var pairs = experts.Lora is { } lora ? new DeviceExpertLora(lora, x.Type) : null;
        using var uploaded = experts.OnGpu is null ? new ResidentExperts(experts, x.Device, x.Type, UploadedBytes) : null;
        var source = experts.OnGpu ?? uploaded!;
        using var sum = new RowSum(y, source.Groups.Count, host is not null);
        for (var g = HostGroups; g < source.Groups.Count; g++)
        {
            if (IsEmpty(source.Groups[g])) continue;
            using var visit = new Visit(this, source, g, x, f.Saved[1], pairs);
            var (gate, up, p) = visit.GateAndUp();
            p?.Dispose();
            using (gate)
            using (up)
            {
                visit.Activate(gate, up, indices);
                using var down = visit.Down(gate);
                sum.Add(down, visit.FirstRow, f.Saved[2], weights, weights.Width);
            }
        }
        if (host is not null)
        {
            using var part = host.Value();
            sum.Add(part);
        }
        sum.Finish();
    }

    /// <summary>
    /// Inputs dy, x, weights, indices, offsets, routes, rowOf [, the trained tensors]; outputs dx, dweights [, gradients of the trained tensors].
    /// </summary>
    public void Backward(Frame f, int[] offsets, bool wantsParameters)
    {
        Offsets = offsets;
        var (dy, x, weights, routes, rowOf) = (f.Inputs[0], f.Inputs[1], f.Inputs[2], f.Inputs[5], f.Inputs[6]);
        var gradients = wantsParameters ? f.Outputs[2..] : null;
        if (routes.Count == 0)
        {
            foreach (var output in f.Outputs) Memory.Clear(output);
            return;
        }
        using var host = HostExperts.Begin(experts, dropoutKey, Offsets, x, weights, routes);
        host?.Backward(dy, wantsParameters);
        using var pairs = experts.Lora is { } lora ? new DeviceExpertLora(lora, x.Type) : null;
        using var uploaded = experts.OnGpu is null ? new ResidentExperts(experts, x.Device, x.Type, UploadedBytes) : null;
        var source = experts.OnGpu ?? uploaded!;
        using var sum = new RowSum(f.Outputs[0], source.Groups.Count, host is not null);
        if (host is not null) Memory.Clear(f.Outputs[1]); // each side writes the routes of its own experts
        for (var g = source.Groups.Count - 1; g >= HostGroups; g--)
        {
            if (IsEmpty(source.Groups[g]))
            {
                if (gradients is not null) ClearGradients(source.Groups[g], gradients);
                continue;
            }
            using var visit = new Visit(this, source, g, x, routes, pairs);
            using var dx = visit.Backward(dy, weights, f.Inputs[3], f.Inputs[4], f.Outputs[1], gradients);
            sum.Add(dx, visit.FirstRow, rowOf, null, weights.Width);
        }
        if (host is not null)
        {
            using var part = host.Gradients(f.Outputs[1], gradients);
            sum.Add(part);
        }
        sum.Finish();
    }

    private int HostGroups => experts.OnHost?.Groups ?? 0;

    private bool IsEmpty(ExpertGroup group) => Offsets[group.First] == Offsets[group.First + group.Count];

    /// <summary>Experts without rows have no gradient.</summary>
    private static void ClearGradients(ExpertGroup group, Tensor[] gradients)
    {
        foreach (var gradient in gradients)
        {
            using var mine = gradient.Slice(group.First, group.Count);
            Memory.Clear(mine);
        }
    }

    /// <summary>
    /// The sum over a token's routes when they come group by group: straight into the target when there is one group, in F32 otherwise and rounded at the
    /// end.
    /// </summary>
    private sealed class RowSum(Tensor target, int groups, bool andHost) : IDisposable
    {
        private readonly Tensor _sum = (groups == 1 && !andHost) || target.Type == DType.F32 ? target.Alias()
            : Tensor.Empty(DType.F32, target.Device, target.Shape);
        private bool _begun;

        public void Add(Tensor rows, int firstRow, Tensor rowOf, Tensor? weights, int k)
        {
            RouteKernels.Combine(rows, rowOf, firstRow, rows.Rows, k, weights, _sum, add: _begun);
            _begun = true;
        }

        /// <summary>The sum of other routes, F32 [T, D].</summary>
        public void Add(Tensor part)
        {
            if (_begun) DeviceMath.AddInto(_sum, part);
            else Memory.Copy(part, _sum);
            _begun = true;
        }

        public void Finish()
        {
            if (!_begun) Memory.Clear(target);
            else if (_sum.Type != target.Type) DeviceMath.Convert(_sum, target);
        }

        public void Dispose() => _sum.Dispose();
    }

    /// <summary>One group while it is open: rows [FirstRow, FirstRow + Rows) of the sorted routes.</summary>
    private sealed class Visit : IDisposable
    {
        private readonly RoutedExpertsCuda _op;
        private readonly DeviceExperts _source;
        private readonly int _group, _first, _count, _k;
        private readonly Tensor _x, _allRoutes, _routes;
        private readonly DeviceExpertLora? _pairs;
        private readonly GroupMatrices _w;
        private readonly Tensor _tiles;
        private readonly CudaDevice _card;

        public Visit(RoutedExpertsCuda op, DeviceExperts source, int group, Tensor x, Tensor routes, DeviceExpertLora? pairs)
        {
            (_op, _source, _group, _x, _pairs) = (op, source, group, x, pairs);
            (_first, _count) = (source.Groups[group].First, source.Groups[group].Count);
            (FirstRow, Rows) = (op.Offsets[_first], op.Offsets[_first + _count] - op.Offsets[_first]);
            _k = x.Rows == 0 ? 1 : (int)(routes.Count / x.Rows);
            _card = x.Gpu();
            _w = source.Open(group, x.Type);
            (_allRoutes, _routes) = (routes, routes.Slice(FirstRow, Rows));
            _tiles = GroupedKernels.Tiles(x.Device, op.Offsets, _first, _count);
        }

        public int FirstRow { get; }

        public int Rows { get; }

        private DType Type => _x.Type;

        private ExpertLora? Lora => _op.Lora;

        public void Dispose()
        {
            _source.Close(_group);
            _tiles.Dispose();
            _routes.Dispose();
        }

        /// <summary>g, u [rows, I] and p = [x A_gᵀ, x A_uᵀ] [rows, Rg + Ru].</summary>
        public (Tensor Gate, Tensor Up, Tensor? P) GateAndUp()
        {
            var (gate, up) = (Empty(_op._i), Empty(_op._i));
            if (_pairs is not { } pairs)
            {
                Product(gate, false, new GroupedTerm(Tokens(_x), _w.Gate, _op._d));
                Product(up, false, new GroupedTerm(Tokens(_x), _w.Up, _op._d));
                return (gate, up, null);
            }
            var p = Empty(pairs.InRank);
            if (Masked(_x, 0) is { } forGate)
            {
                using (forGate) Product(p, 0, pairs.GateRank, false, new GroupedTerm(RowSource.Of(forGate), pairs.GateA(_first), _op._d));
                using var forUp = Masked(_x, 1)!;
                Product(p, pairs.GateRank, pairs.UpRank, false, new GroupedTerm(RowSource.Of(forUp), pairs.UpA(_first), _op._d));
            }
            else
            {
                Product(p, false, new GroupedTerm(Tokens(_x), pairs.InA(_first), _op._d));
            }
            Product(gate, false, new GroupedTerm(Tokens(_x), _w.Gate, _op._d), new GroupedTerm(RowSource.Of(p), pairs.GateB(_first), pairs.GateRank));
            Product(up, false, new GroupedTerm(Tokens(_x), _w.Up, _op._d),
                new GroupedTerm(RowSource.Of(p).From(pairs.GateRank, Type), pairs.UpB(_first), pairs.UpRank));
            return (gate, up, p);
        }

        /// <summary>h in the place of gate.</summary>
        public void Activate(Tensor gate, Tensor up, Tensor indices)
        {
            if (_op.Glu is { } glu) glu.Forward(gate, up, _allRoutes, FirstRow, indices, gate);
            else RouteKernels.SwiGlu(gate, up, gate);
        }

        /// <summary>down(h) [rows, D].</summary>
        public Tensor Down(Tensor h)
        {
            var y = Empty(_op._d);
            if (_pairs is not { } pairs)
            {
                Product(y, false, new GroupedTerm(RowSource.Of(h), _w.Down, _op._i));
                return y;
            }
            using var p = DownP(h);
            Product(y, false, new GroupedTerm(RowSource.Of(h), _w.Down, _op._i), new GroupedTerm(RowSource.Of(p), pairs.DownB(_first), pairs.DownRank));
            return y;
        }

        /// <summary>dx [rows, D] of the group's rows; writes dweights of its routes and the gradients of its experts' pairs.</summary>
        public Tensor Backward(Tensor dy, Tensor weights, Tensor indices, Tensor offsets, Tensor dWeights, Tensor[]? gradients)
        {
            var (gate, up, p) = GateAndUp();
            using var dGate = gate; // the gradients take the place of the values
            using var dUp = up;
            using var pIn = p;
            using var h = Empty(_op._i); // first the gradient of h, then h
            using var qDown = _pairs is null ? null : Empty(_pairs.DownRank);
            if (_pairs is { } d)
            {
                Product(qDown!, true, new GroupedTerm(Tokens(dy), d.DownB(_first), _op._d));
                BackProject(h, _op._i, 2, [new GroupedTerm(Tokens(dy), _w.Down, _op._d)], (RowSource.Of(qDown!), d.DownA(_first), d.DownRank));
            }
            else
            {
                Product(h, true, new GroupedTerm(Tokens(dy), _w.Down, _op._d));
            }
            if (_op.Glu is { } glu) glu.Backward(h, gate, up, weights, _allRoutes, FirstRow, indices, gate, up, h, dWeights);
            else RouteKernels.SwiGluGrad(h, gate, up, weights, _allRoutes, FirstRow, gate, up, h, dWeights);
            if (gradients is not null) DownGradients(dy, h, qDown, weights, offsets, gradients);
            var dx = Empty(_op._d);
            GroupedTerm[] through = [new(RowSource.Of(dGate), _w.Gate, _op._i), new(RowSource.Of(dUp), _w.Up, _op._i)];
            if (_pairs is not { } pairs)
            {
                Product(dx, true, through);
                if (gradients is not null) WeightGradients(dGate, dUp, offsets, gradients);
                return dx;
            }
            using var q = Empty(pairs.InRank);
            Product(q, 0, pairs.GateRank, true, new GroupedTerm(RowSource.Of(dGate), pairs.GateB(_first), _op._i));
            Product(q, pairs.GateRank, pairs.UpRank, true, new GroupedTerm(RowSource.Of(dUp), pairs.UpB(_first), _op._i));
            if (Lora!.Dropout > 0) BackProject(dx, _op._d, 0, through, (RowSource.Of(q), pairs.GateA(_first), pairs.GateRank),
                (RowSource.Of(q).From(pairs.GateRank, Type), pairs.UpA(_first), pairs.UpRank));
            else Product(dx, true, [.. through, new(RowSource.Of(q), pairs.InA(_first), pairs.InRank)]);
            if (gradients is not null) InGradients(dGate, dUp, pIn!, q, offsets, gradients);
            return dx;
        }

        private Tensor Empty(int width) => Tensor.Empty(Type, _x.Device, Rows, width);

        private RowSource Tokens(Tensor x) => new(x.Pointer, x.Width, _routes.Pointer, _k);

        private void Product(Tensor target, bool byColumns, params ReadOnlySpan<GroupedTerm> terms) =>
            GroupedKernels.Product(_card, Type, _tiles, byColumns, target.Pointer, target.Width, target.Width, 1, terms);

        /// <summary>The same into columns [column, column + width) of the target.</summary>
        private void Product(Tensor target, int column, int width, bool byColumns, params ReadOnlySpan<GroupedTerm> terms) =>
            GroupedKernels.Product(_card, Type, _tiles, byColumns, target.Pointer + (column * Type.Size()), target.Width, width, 1, terms);

        private Tensor DownP(Tensor h)
        {
            var p = Empty(_pairs!.DownRank);
            using var masked = Masked(h, 2);
            Product(p, false, new GroupedTerm(RowSource.Of(masked ?? h), _pairs.DownA(_first), _op._i));
            return p;
        }

        /// <summary>target = Σ through + Σ mask∘(q A): with dropout the low-rank terms pass their masks before they are added.</summary>
        private void BackProject(Tensor target, int width, int projection, ReadOnlySpan<GroupedTerm> through,
            params ReadOnlySpan<(RowSource Q, ExpertSide A, int Rank)> low)
        {
            if (Lora!.Dropout == 0)
            {
                Product(target, true, [.. through, new GroupedTerm(low[0].Q, low[0].A, low[0].Rank)]);
                return;
            }
            Product(target, true, through);
            using var update = Empty(width);
            for (var n = 0; n < low.Length; n++)
            {
                Product(update, true, new GroupedTerm(low[n].Q, low[n].A, low[n].Rank));
                DropoutKernels.Apply(_op.Mask(projection + n), update, update, _routes);
                GradientSum.AddInto(target, update);
            }
        }

        private Tensor? Masked(Tensor input, int projection)
        {
            if (_op.Mask(projection) is not { Active: true } mask) return null;
            var rows = Empty(input.Width);
            if (projection == 2) DropoutKernels.Apply(mask, input, rows, _routes);
            else
            {
                RouteKernels.Gather(input, _allRoutes, FirstRow, Rows, _k, rows);
                DropoutKernels.Apply(mask, rows, rows, _routes);
            }
            return rows;
        }

        /// <summary>dA = (w∘q)ᵀ (m∘h) ; dB = scale · dyᵀ (w∘p), or dW = (w∘dy)ᵀ h.</summary>
        private void DownGradients(Tensor dy, Tensor h, Tensor? q, Tensor weights, Tensor offsets, Tensor[] gradients)
        {
            if (_pairs is not { } pairs)
            {
                using var rows = Empty(_op._d);
                RouteKernels.Gather(dy, _allRoutes, FirstRow, Rows, _k, rows);
                RouteKernels.ScaleRows(rows, weights, _allRoutes, FirstRow);
                Outer(offsets, RowSource.Of(rows), _op._d, RowSource.Of(h), _op._i, gradients[2], _op._d, false, 1);
                return;
            }
            using var p = DownP(h);
            RouteKernels.ScaleRows(p, weights, _allRoutes, FirstRow);
            RouteKernels.ScaleRows(q!, weights, _allRoutes, FirstRow);
            using var masked = Masked(h, 2);
            Outer(offsets, RowSource.Of(q!), pairs.DownRank, RowSource.Of(masked ?? h), _op._i, gradients[4], Lora!.DownB.Width, false, 1);
            Outer(offsets, RowSource.Of(p), pairs.DownRank, Tokens(dy), _op._d, gradients[5], Lora.DownB.Width, true, Lora.Scale);
        }

        private void InGradients(Tensor dGate, Tensor dUp, Tensor p, Tensor q, Tensor offsets, Tensor[] gradients)
        {
            var (pairs, lora) = (_pairs!, Lora!);
            var (rg, ru) = (lora.GateB.Width, lora.UpB.Width);
            Outer(offsets, RowSource.Of(p), pairs.GateRank, RowSource.Of(dGate), _op._i, gradients[1], rg, true, lora.Scale);
            Outer(offsets, RowSource.Of(p).From(pairs.GateRank, Type), pairs.UpRank, RowSource.Of(dUp), _op._i, gradients[3], ru, true, lora.Scale);
            using var forGate = Masked(_x, 0);
            using var forUp = Masked(_x, 1);
            if (forGate is null && rg == ru) // x is read once for both
            {
                GroupedKernels.Outer(_card, Type, Offsets(offsets), _count, FirstRow, RowSource.Of(q), pairs.InRank, Tokens(_x), _op._d, pairs.GateRank, rg,
                    OfGroup(gradients[0]), OfGroup(gradients[2]), false, 1);
                return;
            }
            Outer(offsets, RowSource.Of(q), pairs.GateRank, forGate is null ? Tokens(_x) : RowSource.Of(forGate), _op._d, gradients[0], rg, false, 1);
            Outer(offsets, RowSource.Of(q).From(pairs.GateRank, Type), pairs.UpRank, forUp is null ? Tokens(_x) : RowSource.Of(forUp), _op._d, gradients[2], ru,
                false, 1);
        }

        /// <summary>dW of gate and up [I, D] = dgᵀ x, duᵀ x: full-parameter training.</summary>
        private void WeightGradients(Tensor dGate, Tensor dUp, Tensor offsets, Tensor[] gradients)
        {
            Outer(offsets, RowSource.Of(dGate), _op._i, Tokens(_x), _op._d, gradients[0], _op._i, false, 1);
            Outer(offsets, RowSource.Of(dUp), _op._i, Tokens(_x), _op._d, gradients[1], _op._i, false, 1);
        }

        private void Outer(Tensor offsets, RowSource small, int M, RowSource wide, int N, Tensor gradient, int limit, bool transposed, float alpha) =>
            GroupedKernels.Outer(_card, Type, Offsets(offsets), _count, FirstRow, small, M, wide, N, M, limit, OfGroup(gradient), 0, transposed, alpha);

        private nint Offsets(Tensor offsets) => offsets.Pointer + (_first * sizeof(int));

        private nint OfGroup(Tensor gradient) => gradient.Pointer + (nint)(_first * (gradient.Count / gradient.Dim(0)) * sizeof(float));
    }

    private ExpertLora? Lora => experts.Lora;

    private ClampedSwiGlu? Glu => experts.Glu;

    private DropoutMask Mask(int projection) => RoutedExperts.Mask(experts, dropoutKey, projection);
}
