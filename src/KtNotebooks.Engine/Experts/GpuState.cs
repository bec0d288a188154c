namespace KtNotebooks.Experts;

/// <summary>What a GPU keeps for the gradient: the order of the routes alone.</summary>
internal sealed class GpuState(Tensor offsets, Tensor routes, Tensor rowOf) : ExpertState(offsets, routes)
{
    /// <summary>The sorted row of each route, I32 [R].</summary>
    public Tensor RowOf => rowOf;

    /// <summary>The offsets as the host sees them; null until the routes are sorted.</summary>
    public int[]? HostOffsets { get; set; }

    public override void Dispose()
    {
        base.Dispose();
        rowOf.Dispose();
    }
}
