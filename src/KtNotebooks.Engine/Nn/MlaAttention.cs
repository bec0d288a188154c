using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Nn;

/// <param name="Width">D.</param>
/// <param name="QueryRank">Rank of the query's latent, or null: one full projection (V2-Lite).</param>
/// <param name="KvRank">Rank of the latent that keys and values come from.</param>
/// <param name="Heads">Head sizes.</param>
/// <param name="Scale">Softmax scale, YaRN's factor included.</param>
/// <param name="Eps">Of the latent norms.</param>
public sealed record MlaSettings(int Width, int? QueryRank, int KvRank, MlaShape Heads, float Scale, float Eps);

/// <summary>
/// Multi-head latent attention (DeepSeek-V2, section 2.1): q from x (or from its latent), k and v from one narrow latent of x, plus one rotary key shared
/// by all heads.
/// </summary>
public sealed class MlaAttention : Block
{
    private readonly MlaSettings _settings;
    private readonly RotaryTable _rotary;
    private readonly Linear? _qA;
    private readonly RmsNorm? _qNorm;
    private readonly Linear _q;
    private readonly Linear _kvA;
    private readonly RmsNorm _kvNorm;
    private readonly Linear _kvB;
    private readonly Linear _o;

    public MlaAttention(IWeights weights, string path, DType type, MlaSettings settings, RotaryTable rotary)
        : base(path)
    {
        ArgumentNullException.ThrowIfNull(settings);
        (_settings, _rotary) = (settings, rotary);
        var (D, heads) = (settings.Width, settings.Heads);
        if (settings.QueryRank is { } rank)
        {
            _qA = new Linear(weights, path + ".q_a_proj", type, rank, D);
            _qNorm = new RmsNorm(weights, path + ".q_a_layernorm", rank, settings.Eps);
            _q = new Linear(weights, path + ".q_b_proj", type, heads.H * heads.Head, rank);
        }
        else
        {
            _q = new Linear(weights, path + ".q_proj", type, heads.H * heads.Head, D);
        }
        _kvA = new Linear(weights, path + ".kv_a_proj_with_mqa", type, settings.KvRank + heads.Rope, D);
        _kvNorm = new RmsNorm(weights, path + ".kv_a_layernorm", settings.KvRank, settings.Eps);
        _kvB = new Linear(weights, path + ".kv_b_proj", type, heads.H * (heads.Nope + heads.Value), settings.KvRank) { IsReadInParts = true };
        _o = new Linear(weights, path + ".o_proj", type, D, heads.H * heads.Value);
    }

    public override IEnumerable<Module> Children => _qA is { } a ? [a, _qNorm!, _q, _kvA, _kvNorm, _kvB, _o] : [_q, _kvA, _kvNorm, _kvB, _o];

    /// <summary>
    /// x [T, D] → [T, D]. A cache holds one row [latent, rotary key] a token, KvRank + Rope values, whatever the number of heads. Rows of sequences that
    /// are not in the cache yet attend to keys and values made from their latents (fewer products); rows behind cached ones attend to the cached rows
    /// themselves, W_UK and W_UV moved to the other side of the products; where rows must be alike (<see cref="Pass.RowsAlike"/>), all rows do.
    /// </summary>
    public override Tensor Forward(Tensor x, Pass pass)
    {
        var both = Linear.ForwardEach(x, pass, _qA ?? _q, _kvA);
        var q = _qA is null ? both[0] : _q.Forward(_qNorm!.Forward(both[0]), pass);
        var kv = both[1];
        if (pass.Cache is null) return _o.Forward(Expanded(q, kv, pass), pass);
        var angles = Autograd.Tape.Own(LatentRows.Angles(_rotary, pass.Cache.Lists, x.Device));
        var (held, _) = pass.Cache.Append(Path, LatentRows.Apply(kv, _kvNorm.Weight, angles, _settings.Eps), null,
            pass.SeqStarts);
        var begun = pass.RowsAlike && x.Device.Kind == DeviceKind.Cpu ? pass.SeqStarts.Length - 1 : Begun(pass.Cache, pass.SeqStarts);
        var split = pass.SeqStarts[begun];
        if (split == 0) return _o.Forward(Expanded(q, kv, pass), pass);
        if (split == x.Rows) return _o.Forward(Absorbed(q, angles, held, pass.SeqStarts, pass), pass);
        // Running sequences and new ones behind them in one batch.
        int[] starts = [.. pass.SeqStarts[begun..].Select(start => start - split)];
        var rest = pass.OfRows(split, x.Rows) with { Positions = pass.Positions[split..], SeqStarts = starts, FirstRow = pass.FirstRow + split };
        var all = Autograd.Tape.Own(Tensor.Empty(x.Type, x.Device, x.Rows, _settings.Heads.H * _settings.Heads.Value));
        Memory.Copy(Absorbed(Part(q, 0, split), Part(angles, 0, split), held, pass.SeqStarts[..(begun + 1)], pass.OfRows(0, split)), Part(all, 0, split));
        Memory.Copy(Expanded(Part(q, split, x.Rows), Part(kv, split, x.Rows), rest), Part(all, split, x.Rows));
        return _o.Forward(all, pass);
    }

    /// <summary>Keys and values made from the latents of these rows; kv [T, R + r].</summary>
    private Tensor Expanded(Tensor q, Tensor kv, Pass pass)
    {
        var (latent, rotaryKey) = SplitColumns.Apply(kv, _settings.KvRank);
        var (Q, K, V) = MlaHeads.Apply(q, _kvB.Forward(_kvNorm.Forward(latent), pass), rotaryKey, _settings.Heads, _rotary, pass.Positions);
        return Flatten.Apply(Attention.Apply(Q, K, V, Spans.Self(pass.SeqStarts), _settings.Scale));
    }

    /// <summary>How many sequences at the front to take in the absorbed form: all up to the last one that gets rows behind rows that it has.</summary>
    private static int Begun(CacheBatch cache, int[] seqStarts)
    {
        for (var s = seqStarts.Length - 2; s >= 0; s--)
            if (seqStarts[s + 1] > seqStarts[s] && cache.Held[s] > 0) return s + 1;
        return 0;
    }

    private static Tensor Part(Tensor rows, int from, int to) => Autograd.Tape.Own(rows.Slice(from, to - from));

    private Tensor Absorbed(Tensor q, Tensor angles, Tensor held, int[] seqStarts, Pass pass)
    {
        using var rows = held.View(held.Dim(0), 1, held.Width);
        var queries = Queries(q, angles, pass);
        var lists = seqStarts == pass.SeqStarts ? pass.Cache!.Lists : null; // a part of the rows has lists of its own
        var context = CachedAttention.Latent(queries, rows, seqStarts, pass.Cache!.Table, _settings.KvRank, _settings.Scale, lists);
        return Values(context, pass);
    }

    private Tensor Queries(Tensor q, Tensor angles, Pass pass)
    {
        var mixed = Mixed(q.Dim(0), pass);
        if (mixed is null && SeveralAdapters(pass)) return pass.ByAdapter(q, (rows, p, from) => Queries(rows, Part(angles, from, from + rows.Rows), p));
        var y = AbsorbedQueries.Apply(q, angles, Read(pass).Weight, Read(pass).Pair, _settings.Heads);
        if (mixed is not null) RowPairs.AddToQueries(q, mixed.Table, mixed.Rank, pass.Mixed!.Places(q.Device), y, _settings.Heads);
        return y;
    }

    private Tensor Values(Tensor context, Pass pass)
    {
        var (mixed, heads) = (Mixed(context.Dim(0), pass), _settings.Heads);
        if (mixed is null && SeveralAdapters(pass)) return pass.ByAdapter(context, (rows, p, _) => Values(rows, p));
        var y = AbsorbedValues.Apply(context, Read(pass).Weight, Read(pass).Pair, heads);
        if (mixed is not null)
            RowPairs.Add(context, pass.Mixed!.Places(context.Device), [new(mixed.Table, mixed.Rank, y)], heads.H, heads.Nope + heads.Value, heads.Nope);
        return y;
    }

    /// <summary>The up-projection's pairs where each row has its own.</summary>
    private AdapterTable? Mixed(long rows, Pass pass) => pass.MixedOf(_kvB, rows);

    private bool SeveralAdapters(Pass pass) => pass.Adapters is not null && pass.Any(p => _kvB.Acting(p) is not null);

    /// <summary>The up-projection as a pass sees it.</summary>
    private (Tensor Weight, (Tensor, Tensor, float)? Pair) Read(Pass pass)
    {
        if (pass.Adapters is not null || _kvB.Acting(pass) is not { } a) return (_kvB.Weight, null);
        if (a.Start is not null)
            throw new NotSupportedException($"{_kvB.Path}: a PiSSA pair in training answers nothing; load the adapter that the run has saved");
        if (a.Dora is not { } dora) return (_kvB.Weight, (a.A, a.B, a.Scale));
        var (weight, b) = dora.Folded(_kvB.Weight, a);
        return (weight, (a.A, b, a.Scale));
    }
}
