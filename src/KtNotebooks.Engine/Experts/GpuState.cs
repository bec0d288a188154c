namespace KtNotebooks.Experts;

/// <summary>What a GPU keeps for the gradient: the order of the routes, and where a pass is remembered what its gate and up projections gave.</summary>
internal sealed class GpuState(Tensor offsets, Tensor routes, Tensor rowOf) : ExpertState(offsets, routes)
{
    private readonly Dictionary<int, GroupActivations> _kept = [];

    /// <summary>The sorted row of each route, I32 [R].</summary>
    public Tensor RowOf => rowOf;

    /// <summary>The offsets as the host sees them; null until the routes are sorted.</summary>
    public int[]? HostOffsets { get; set; }

    internal override IEnumerable<Tensor> Tensors => [.. base.Tensors, rowOf, .. _kept.Values.SelectMany(k => k.All)];

    /// <summary>Owns what a group of experts gave until it is taken.</summary>
    public void Keep(int group, GroupActivations activations) => _kept.Add(group, activations);

    /// <summary>The caller's from now on; null: they are to be computed again.</summary>
    public GroupActivations? Take(int group) => _kept.Remove(group, out var kept) ? kept : null;

    public override void Dispose()
    {
        base.Dispose();
        rowOf.Dispose();
        foreach (var kept in _kept.Values) kept.Dispose();
        _kept.Clear();
    }
}

/// <summary>Of the rows of a group, sorted by expert: g, u [rows, I] and A·x of both low-rank pairs side by side [rows, r + r]; null: no pairs.</summary>
internal sealed record GroupActivations(Tensor Gate, Tensor Up, Tensor? P) : IDisposable
{
    public IEnumerable<Tensor> All => P is null ? [Gate, Up] : [Gate, Up, P];

    public void Dispose()
    {
        foreach (var tensor in All) tensor.Dispose();
    }
}
