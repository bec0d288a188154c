using KtNotebooks.Autograd;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>
/// Rows up to <paramref name="End"/>, from the end of the stretch before, and the name of their adapter as <see cref="Pass.Adapter"/> has it.
/// </summary>
public readonly record struct AdapterRows(int End, string? Adapter);

/// <summary>
/// What the layers need to know about the rows in hand: a stretch of a token batch, made of whole sequences.
/// </summary>
/// <param name="Positions">Position of each row in its sequence, [T].</param>
/// <param name="SeqStarts">[N+1].</param>
/// <param name="FirstRow">Number of the first row in the whole stream: dropout masks do not depend on chunking.</param>
/// <param name="DropoutKey">Changes every step; 0 with <paramref name="Training"/> false.</param>
/// <param name="Training">Dropout acts.</param>
/// <param name="Cache">Keys and values of earlier rows of these sequences, or null.</param>
/// <param name="ValueUnused">The stage is computed again for its gradients alone: what it adds to the stream will not be read, and the last product before
/// may be left out.</param>
/// <param name="Adapter">The name of one of the adapters that were loaded under names, or <see cref="BaseModel"/>; null: the one that is attached for
/// training, if there is one.</param>
/// <param name="Adapters">Stretches of rows with an adapter each, instead of one for all; they cover the rows in order.</param>
/// <param name="RowsAlike">A row must get the same bits whatever is computed with it and however its sequence was cut into passes: no form of a product may
/// be chosen by what else is there. Beside <see cref="Interop.Cpu.RowInvariant"/>, which is for the products themselves.</param>
public sealed record Pass(int[] Positions, int[] SeqStarts, int FirstRow = 0, ulong DropoutKey = 0, bool Training = false, CacheBatch? Cache = null,
    bool ValueUnused = false, string? Adapter = null, IReadOnlyList<AdapterRows>? Adapters = null, bool RowsAlike = false)
{
    /// <summary>Hears what routers choose, and gives their backward pass its balance loss; null: nobody asks.</summary>
    public RoutingStep? Routing { get; init; }

    /// <summary>It is recorded for the backward pass, which will not compute it again.</summary>
    public bool IsRemembered { get; init; }

    /// <summary>Where experts on the CPU leave their activations for the backward pass; null: they are computed again.</summary>
    public KeptStates? Kept { get; init; }

    /// <summary>The rows of <see cref="Adapters"/>, for modules that can take each with its own; null: none can.</summary>
    internal MixedRows? Mixed { get; init; }

    /// <summary>A module's pairs where each of so many rows has its own; null: it has none, or its rows come adapter by adapter.</summary>
    internal AdapterTable? MixedOf(IAdaptable module, long rows) => rows <= MixedRows.Most ? Mixed?.Tables.GetValueOrDefault(module) : null;

    /// <summary>Asks for the base without any adapter.</summary>
    public const string BaseModel = "base";

    public static Pass Inference(TokenBatch batch, CacheBatch? cache = null, string? adapter = null) =>
        new(batch.Positions, batch.SeqStarts, Cache: cache, Adapter: adapter);

    /// <summary>Rows [from, to) of a batch; attention wants whole sequences, other layers any rows.</summary>
    public static Pass ForTraining(TokenBatch batch, int from, int to, ulong dropoutKey)
    {
        var starts = batch.SeqStarts.Where(s => s >= from && s <= to).Select(s => s - from).ToArray();
        return new Pass(batch.Positions[from..to], starts, batch.FirstRow + from, dropoutKey, Training: true);
    }

    /// <summary>The dropout mask of a module in this pass.</summary>
    public DropoutMask Mask(float p, ulong moduleKey) => Training && p > 0 ? new DropoutMask(p, DropoutMask.Mix(DropoutKey ^ moduleKey), FirstRow)
        : DropoutMask.None;

    /// <summary>Whether anything acts on any of the rows: `acting` of every adapter in this pass.</summary>
    internal bool Any(Func<Pass, bool> acting) => Adapters is null ? acting(this)
        : Adapters.Any(a => acting(this with { Adapter = a.Adapter, Adapters = null, Mixed = null }));

    /// <summary>The adapters of rows [from, to).</summary>
    internal Pass OfRows(int from, int to)
    {
        if (Adapters is null) return this;
        List<AdapterRows> part = [];
        foreach (var (end, adapter) in Adapters)
            if (end > from && (part.Count == 0 || part[^1].End < to - from)) part.Add(new AdapterRows(Math.Min(end, to) - from, adapter));
        return this with { Adapters = part, Mixed = Mixed is { } m ? m with { From = m.From + from, To = m.From + to } : null };
    }

    /// <summary>A function of rows [T, …] with one adapter, for each stretch of rows; the results end to end. All results have one shape but for T.</summary>
    internal Tensor ByAdapter(Tensor x, Func<Tensor, Pass, int, Tensor> compute)
    {
        Tensor? all = null;
        var from = 0;
        foreach (var (end, adapter) in Adapters!)
        {
            var rows = Tape.Own(x.Slice(from, end - from));
            var y = compute(rows, this with { Adapter = adapter, Adapters = null, Mixed = null }, from);
            all ??= Tape.Own(Tensor.Empty(y.Type, y.Device, [x.Dim(0), .. y.Shape[1..]]));
            using var target = all.Slice(from, end - from);
            Memory.Copy(y, target);
            from = end;
        }
        return all!;
    }
}
