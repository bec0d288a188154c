using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>The pairs of several adapters of one module on its card, as kernels read them that give each row its own.</summary>
/// <param name="Table">An entry a name, as bytes: `LowPair` of RowPairs.cu for a linear layer, `Pairs` of FewRows.cu for experts.</param>
/// <param name="Rank">The largest rank of what reads x: of experts gate and up together.</param>
/// <param name="DownRank">Of experts the largest of the down projection.</param>
public sealed record AdapterTable(Tensor Table, int Rank, int DownRank = 0) : IDisposable
{
    public void Dispose() => Table.Dispose();
}

/// <summary>
/// Rows of a pass on one card, each with an adapter of its own, in the place of stretches that are computed one after another (<see cref="Pass.ByAdapter"/>):
/// a weight is read once for all of them, and what a step does depends on no order of adapters, so that it can be recorded (CUDA graph).
/// </summary>
/// <param name="Tables">Of every module that has named adapters and can take rows so.</param>
/// <param name="Number">Other tables, another number.</param>
/// <param name="IsWhole">Every module that has named adapters is among them.</param>
/// <param name="Cache">Knows each row's adapter: <see cref="CacheBatch.AdapterOf"/>.</param>
/// <param name="From">First row of the pass.</param>
/// <param name="To">Behind the last one.</param>
internal sealed record MixedRows(IReadOnlyDictionary<IAdaptable, AdapterTable> Tables, long Number, bool IsWhole, CacheBatch Cache, int From, int To)
{
    /// <summary>
    /// More rows are computed stretch by stretch: their products are bound by arithmetic, which a row's own pairs do without tensor cores. Each stretch reads
    /// all weights again: 32 prompts of 64 tokens for five models in turn took 0.5 s where one model took 0.1, stretch by stretch (V2-Lite, H200).
    /// </summary>
    public const int Most = 2048;

    /// <summary>The place of each row's adapter in a table, I32 [To − From]; −1: none.</summary>
    public Tensor Places(Device device)
    {
        var all = Cache.Lists.On(device, "adapters", r => r.Adapters);
        return From == 0 && To == all.Dim(0) ? all : Tape.Own(all.Slice(From, To - From));
    }
}
