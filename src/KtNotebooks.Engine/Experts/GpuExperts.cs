using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>Consecutive experts of a bank that are on the card at the same time.</summary>
public readonly record struct ExpertGroup(int First, int Count);

/// <summary>
/// Where the matrices of a group lie, in the type that was asked for: gate, up [I, D], down [D, I] of its first expert, the next one a stride on.
/// </summary>
internal readonly record struct GroupMatrices(ExpertSide Gate, ExpertSide Up, ExpertSide Down);

/// <summary>
/// A GPU computes, group by group, each opened before the work that reads it is queued and closed after. Whether the matrices are always there, come over
/// the bus or are dequantized on the way is the matter of the class behind it.
/// </summary>
internal abstract class GpuExperts : IExpertExecutor
{
    /// <summary>In the order of the experts; forward walks them upwards, backward downwards.</summary>
    public abstract IReadOnlyList<ExpertGroup> Groups { get; }

    public abstract Device? Device { get; }

    public virtual ExpertStream? Stream => null;

    /// <summary>Bytes that opening a group takes for rows of a type, so many an expert of the bank: asked when a run is planned.</summary>
    internal virtual long OpenBytes(ExpertGroup group, DType type, long rows) => 0;

    /// <summary>
    /// The matrices of a group, for rows in F32 or BF16, so many an expert of the bank; work queued on the compute stream from now on may read them.
    /// </summary>
    internal abstract GroupMatrices Open(int group, DType type, long rows);

    /// <summary>All work that reads the group has been queued.</summary>
    internal abstract void Close(int group);

    public virtual IEnumerable<GroupVisit> Schedule(ExpertVisit visit) => [];

    /// <summary>
    /// While the largest group is open: gate, up, h (backward) and a row of D, what a row has of low rank, dequantized matrices, padded pairs and the sum over
    /// groups. Nobody knows how tokens will choose: a group is taken to get twice its share of the rows at most.
    /// </summary>
    public long ScratchBytes(ExpertCall call, bool backward)
    {
        var (x, experts, type) = (call.X, call.Experts, call.X.Type);
        var rows = Math.Min(call.Routes, 2L * call.Routes * Groups.Max(g => g.Count) / experts.Count);
        long row = ((backward ? 3 : 2) * experts.Inner) + experts.Gate.K, pairs = 0;
        if (experts.Lora is { } lora)
        {
            (pairs, var both, var down) = DeviceExpertLora.Sizes(lora, type);
            row += backward ? 2 * (both + down) : both + down;
            if (lora.Dropout > 0) row += 2 * Math.Max(experts.Gate.K, experts.Inner); // masked copies of what goes in
        }
        var sum = Groups.Count > 1 && type != DType.F32 ? x.Count * sizeof(float) : 0;
        return (rows * row * type.Size()) + pairs + sum + Groups.Max(g => OpenBytes(g, type, call.RowsEach));
    }

    public virtual ExpertState NewState(ExpertCall call) => StateOf(call);

    public static GpuState StateOf(ExpertCall call)
    {
        Tensor Numbers(int count) => Tensor.Empty(DType.I32, call.X.Device, count);
        return new GpuState(Numbers(call.Experts.Count + 1), Numbers(call.Routes), Numbers(call.Routes));
    }

    public virtual void Forward(ExpertCall call, ExpertState state, Tensor y) => new GpuRows(call, this, (GpuState)state).Forward(y);

    public void Backward(ExpertCall call, ExpertState state, Tensor dy, ExpertGradients to) => new GpuRows(call, this, (GpuState)state).Backward(dy, to);

    public abstract void Dispose();
}

/// <summary>
/// <see cref="RoutedExperts"/> and its gradient on a GPU, one group of experts after the other: what a group needs is allocated for its rows alone, so
/// memory does not grow with the bank. Rows are fetched through the routes inside the products, nothing is gathered. The gradient computes gate and up
/// again from x, two products more and R × 2I elements less, unless the call is remembered.
/// </summary>
internal sealed class GpuRows(ExpertCall call, GpuExperts source, GpuState state)
{
    private readonly int _d = call.Experts.Gate.K, _i = call.Experts.Inner;

    /// <summary>Fills the state and, unless nobody will look at it, y.</summary>
    /// <param name="y">[T, D].</param>
    /// <param name="cpuGroups">The CPU takes the first so many groups.</param>
    public void Forward(Tensor y, int cpuGroups = 0)
    {
        if (call.ValueUnused || call.Routes == 0)
        {
            Memory.Clear(y);
            return;
        }
        Sort();
        using var cpu = cpuGroups == 0 ? null : new CpuShare(call, state, source.Groups[cpuGroups - 1]);
        cpu?.Forward();
        using var pairs = Lora is { } lora ? new DeviceExpertLora(lora, call.X.Type) : null;
        using var sum = new RowSum(y, source.Groups.Count, cpu is not null);
        for (var g = cpuGroups; g < source.Groups.Count; g++)
        {
            if (IsEmpty(source.Groups[g])) continue;
            using var visit = new Visit(this, g, pairs);
            var into = visit.GateAndUp();
            call.Several?.AddIn(call, state.RowOf, visit.FirstRow, into.Gate, into.Up);
            using var h = visit.Activate(into, call.IsRemembered ? state : null);
            using var down = visit.Down(h);
            call.Several?.AddDown(call, state.RowOf, visit.FirstRow, h, down);
            sum.Add(down, visit.FirstRow, state.RowOf, call.Weights, call.TopK);
        }
        if (cpu is not null)
        {
            using var part = cpu.Value();
            sum.Add(part);
        }
        sum.Finish();
    }

    /// <param name="dy">[T, D].</param>
    /// <param name="to">All of it is filled.</param>
    /// <param name="cpuGroups">The CPU takes the first so many groups.</param>
    public void Backward(Tensor dy, ExpertGradients to, int cpuGroups = 0)
    {
        if (call.Routes == 0)
        {
            foreach (var output in (Tensor[])[to.X, to.Weights, .. to.Trained ?? []]) Memory.Clear(output);
            return;
        }
        Sort();
        using var cpu = cpuGroups == 0 ? null : new CpuShare(call, state, source.Groups[cpuGroups - 1]);
        cpu?.Backward(dy, to.Trained is not null);
        using var pairs = Lora is { } lora ? new DeviceExpertLora(lora, call.X.Type) : null;
        using var sum = new RowSum(to.X, source.Groups.Count, cpu is not null);
        if (cpu is not null) Memory.Clear(to.Weights); // each side writes the routes of its own experts
        for (var g = source.Groups.Count - 1; g >= cpuGroups; g--)
        {
            if (IsEmpty(source.Groups[g]))
            {
                if (to.Trained is not null) ClearGradients(source.Groups[g], to.Trained);
                continue;
            }
            using var visit = new Visit(this, g, pairs);
            using var dx = visit.Backward(dy, to);
            sum.Add(dx, visit.FirstRow, state.RowOf, null, call.TopK);
        }
        if (cpu is not null)
        {
            using var part = cpu.Gradients(to);
            sum.Add(part);
        }
        sum.Finish();
    }

    /// <summary>
    /// As many rows as experts or more, but at most a tile of each, of experts that are all open: then nothing of the forward waits for the host
    /// (<see cref="ForwardOnCard"/>).
    /// </summary>
    public static bool StaysOnCard(ExpertCall call) => call is { ValueUnused: false } && call.Routes >= call.Experts.Count
        && call.X.Rows <= GroupedKernels.TileRows && call.Experts.Lora is not { Dropout: > 0 };

    /// <param name="y">[T, D].</param>
    public void ForwardOnCard(Tensor y)
    {
        var tiles = Tensor.Empty(DType.I32, call.X.Device, call.Experts.Count, 4);
        RouteKernels.Sort(call.Indices, call.Experts.Count, state.Offsets, state.Routes, state.RowOf, tiles);
        using var pairs = Lora is { } lora ? new DeviceExpertLora(lora, call.X.Type) : null;
        using var visit = new Visit(this, pairs, tiles);
        var into = visit.GateAndUp();
        call.Several?.AddIn(call, state.RowOf, 0, into.Gate, into.Up);
        using var h = visit.Activate(into, null);
        using var down = visit.Down(h);
        call.Several?.AddDown(call, state.RowOf, 0, h, down);
        RouteKernels.Combine(down, state.RowOf, 0, call.Routes, call.TopK, call.Weights, y, add: false);
    }

    /// <summary>Once for forward and backward, by whichever needs it first: the host waits for the routes here.</summary>
    private void Sort()
    {
        if (state.HostOffsets is not null) return;
        RouteKernels.Sort(call.Indices, call.Experts.Count, state.Offsets, state.Routes, state.RowOf);
        state.HostOffsets = state.Offsets.ToInts();
    }

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
        private readonly GpuRows _op;
        private readonly int _group, _first, _count, _k;
        private readonly Tensor _x, _allRoutes, _routes;
        private readonly DeviceExpertLora? _pairs;
        private readonly GroupMatrices _w;
        private readonly Tensor _tiles;
        private readonly CudaDevice _card;

        public Visit(GpuRows op, int group, DeviceExpertLora? pairs)
            : this(op, group, pairs, op.Offsets[op.Source.Groups[group].First], op.Offsets[op.Source.Groups[group].First + op.Source.Groups[group].Count]) =>
            _tiles = GroupedKernels.Tiles(_x.Device, op.Offsets, _first, _count);

        /// <summary>All experts, whose tiles were made on the card; owned from now on.</summary>
        public Visit(GpuRows op, DeviceExpertLora? pairs, Tensor tiles)
            : this(op, 0, pairs, 0, op.Indices.Rows * op.TopK) => _tiles = tiles;

        private Visit(GpuRows op, int group, DeviceExpertLora? pairs, int firstRow, int end)
        {
            (_op, _group, _x, _pairs, _k) = (op, group, op.X, pairs, op.TopK);
            (_first, _count) = op.Source.Groups[group];
            (FirstRow, Rows) = (firstRow, end - firstRow);
            _card = _x.Gpu();
            _w = op.Source.Open(group, _x.Type, op.RowsEach);
            (_allRoutes, _routes, _tiles) = (op.State.Routes, op.State.Routes.Slice(FirstRow, Rows), null!);
        }

        public int FirstRow { get; }

        public int Rows { get; }

        private DType Type => _x.Type;

        private ExpertLora? Lora => _op.Lora;

        public void Dispose()
        {
            _op.Source.Close(_group);
            _tiles.Dispose();
            _routes.Dispose();
        }

        /// <summary>g, u [rows, I] and p = [x A_gᵀ, x A_uᵀ] [rows, Rg + Ru].</summary>
        public GroupActivations GateAndUp()
        {
            var (gate, up) = (Empty(_op._i), Empty(_op._i));
            if (_pairs is not { } pairs)
            {
                Product(gate, false, new GroupedTerm(Tokens(_x), _w.Gate, _op._d));
                Product(up, false, new GroupedTerm(Tokens(_x), _w.Up, _op._d));
                return new GroupActivations(gate, up, null);
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
            return new GroupActivations(gate, up, p);
        }

        /// <summary>h [rows, I]; g and u are kept in a state, or freed.</summary>
        public Tensor Activate(GroupActivations into, GpuState? keeper)
        {
            var h = keeper is null ? into.Gate.Alias() : Empty(_op._i);
            if (_op.Glu is { } glu) glu.Forward(into.Gate, into.Up, _allRoutes, FirstRow, _op.Indices, h);
            else RouteKernels.SwiGlu(into.Gate, into.Up, h);
            if (keeper is null) into.Dispose();
            else keeper.Keep(_group, into);
            return h;
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
        public Tensor Backward(Tensor dy, ExpertGradients to)
        {
            var (weights, gradients) = (_op.Weights, to.Trained);
            using var into = _op.State.Take(_group) ?? GateAndUp();
            var (gate, up, pIn) = into;
            var (dGate, dUp) = (gate, up); // the gradients take the place of the values
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
            if (_op.Glu is { } glu) glu.Backward(h, gate, up, weights, _allRoutes, FirstRow, _op.Indices, gate, up, h, to.Weights);
            else RouteKernels.SwiGluGrad(h, gate, up, weights, _allRoutes, FirstRow, gate, up, h, to.Weights);
            if (gradients is not null) DownGradients(dy, h, qDown, gradients);
            var dx = Empty(_op._d);
            GroupedTerm[] through = [new(RowSource.Of(dGate), _w.Gate, _op._i), new(RowSource.Of(dUp), _w.Up, _op._i)];
            if (_pairs is not { } pairs)
            {
                Product(dx, true, through);
                if (gradients is not null) WeightGradients(dGate, dUp, gradients);
                return dx;
            }
            using var q = Empty(pairs.InRank);
            Product(q, 0, pairs.GateRank, true, new GroupedTerm(RowSource.Of(dGate), pairs.GateB(_first), _op._i));
            Product(q, pairs.GateRank, pairs.UpRank, true, new GroupedTerm(RowSource.Of(dUp), pairs.UpB(_first), _op._i));
            if (Lora!.Dropout > 0) BackProject(dx, _op._d, 0, through, (RowSource.Of(q), pairs.GateA(_first), pairs.GateRank),
                (RowSource.Of(q).From(pairs.GateRank, Type), pairs.UpA(_first), pairs.UpRank));
            else Product(dx, true, [.. through, new(RowSource.Of(q), pairs.InA(_first), pairs.InRank)]);
            if (gradients is not null) InGradients(dGate, dUp, pIn!, q, gradients);
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
        private void DownGradients(Tensor dy, Tensor h, Tensor? q, Tensor[] gradients)
        {
            var weights = _op.Weights;
            if (_pairs is not { } pairs)
            {
                using var rows = Empty(_op._d);
                RouteKernels.Gather(dy, _allRoutes, FirstRow, Rows, _k, rows);
                RouteKernels.ScaleRows(rows, weights, _allRoutes, FirstRow);
                Outer(RowSource.Of(rows), _op._d, RowSource.Of(h), _op._i, gradients[2], _op._d, false, 1);
                return;
            }
            using var p = DownP(h);
            RouteKernels.ScaleRows(p, weights, _allRoutes, FirstRow);
            RouteKernels.ScaleRows(q!, weights, _allRoutes, FirstRow);
            using var masked = Masked(h, 2);
            Outer(RowSource.Of(q!), pairs.DownRank, RowSource.Of(masked ?? h), _op._i, gradients[4], Lora!.DownB.Width, false, 1);
            Outer(RowSource.Of(p), pairs.DownRank, Tokens(dy), _op._d, gradients[5], Lora.DownB.Width, true, Lora.Scale);
        }

        private void InGradients(Tensor dGate, Tensor dUp, Tensor p, Tensor q, Tensor[] gradients)
        {
            var (pairs, lora) = (_pairs!, Lora!);
            var (rg, ru) = (lora.GateB.Width, lora.UpB.Width);
            Outer(RowSource.Of(p), pairs.GateRank, RowSource.Of(dGate), _op._i, gradients[1], rg, true, lora.Scale);
            Outer(RowSource.Of(p).From(pairs.GateRank, Type), pairs.UpRank, RowSource.Of(dUp), _op._i, gradients[3], ru, true, lora.Scale);
            using var forGate = Masked(_x, 0);
            using var forUp = Masked(_x, 1);
            if (forGate is null && rg == ru) // x is read once for both
            {
                GroupedKernels.Outer(_card, Type, Offsets, _count, FirstRow, RowSource.Of(q), pairs.InRank, Tokens(_x), _op._d, pairs.GateRank, rg,
                    OfGroup(gradients[0]), OfGroup(gradients[2]), false, 1);
                return;
            }
            Outer(RowSource.Of(q), pairs.GateRank, forGate is null ? Tokens(_x) : RowSource.Of(forGate), _op._d, gradients[0], rg, false, 1);
            Outer(RowSource.Of(q).From(pairs.GateRank, Type), pairs.UpRank, forUp is null ? Tokens(_x) : RowSource.Of(forUp), _op._d, gradients[2], ru,
                false, 1);
        }

        /// <summary>dW of gate and up [I, D] = dgᵀ x, duᵀ x: full-parameter training.</summary>
        private void WeightGradients(Tensor dGate, Tensor dUp, Tensor[] gradients)
        {
            Outer(RowSource.Of(dGate), _op._i, Tokens(_x), _op._d, gradients[0], _op._i, false, 1);
            Outer(RowSource.Of(dUp), _op._i, Tokens(_x), _op._d, gradients[1], _op._i, false, 1);
        }

        private void Outer(RowSource small, int M, RowSource wide, int N, Tensor gradient, int limit, bool transposed, float alpha) =>
            GroupedKernels.Outer(_card, Type, Offsets, _count, FirstRow, small, M, wide, N, M, limit, OfGroup(gradient), 0, transposed, alpha);

        private nint Offsets => _op.State.Offsets.Pointer + (_first * sizeof(int));

        private nint OfGroup(Tensor gradient) => gradient.Pointer + (nint)(_first * (gradient.Count / gradient.Dim(0)) * sizeof(float));
    }

    private GpuExperts Source => source;

    private long RowsEach => call.RowsEach;

    private GpuState State => state;

    private int[] Offsets => state.HostOffsets!;

    private Tensor X => call.X;

    private Tensor Weights => call.Weights;

    private Tensor Indices => call.Indices;

    private int TopK => call.TopK;

    private ExpertLora? Lora => call.Experts.Lora;

    private ClampedSwiGlu? Glu => call.Experts.Glu;

    private DropoutMask Mask(int projection) => call.Mask(projection);
}
