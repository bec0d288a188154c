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
/// Multi-head latent attention (DeepSeek-V2, section 2.1): q from x (or from its latent), k and v from one narrow latent of x, plus one rotary key shared by all heads.
/// </summary>
public sealed class MlaAttention : Module
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
        _kvB = new Linear(weights, path + ".kv_b_proj", type, heads.H * (heads.Nope + heads.Value), settings.KvRank);
        _o = new Linear(weights, path + ".o_proj", type, D, heads.H * heads.Value);
    }

    public override IEnumerable<Module> Children => _qA is { } a ? [a, _qNorm!, _q, _kvA, _kvNorm, _kvB, _o] : [_q, _kvA, _kvNorm, _kvB, _o];

    /// <summary>
    /// x [T, D] → [T, D]. A cache holds one row [latent, rotary key] a token, KvRank + Rope values, whatever the number of heads. Rows of sequences that are not in the cache yet attend to keys
    /// and values made from their latents (fewer products); rows behind cached ones attend to the cached rows themselves, W_UK and W_UV moved to the other side of the products.
    /// </summary>
    public Tensor Forward(Tensor x, Pass pass)
    {
        var q = _qA is { } a ? _q.Forward(_qNorm!.Forward(a.Forward(x, pass)), pass) : _q.Forward(x, pass);
        var (latent, rotaryKey) = SplitColumns.Apply(_kvA.Forward(x, pass), _settings.KvRank);
        latent = _kvNorm.Forward(latent);
        if (pass.Cache is { } cache)
        {
            var angles = Autograd.Tape.Own(LatentRows.Angles(_rotary, pass.Positions, x.Device));
            var begun = Begun(cache, pass.SeqStarts);
            var held = cache.Append(Path, LatentRows.Apply(latent, rotaryKey, angles), pass.SeqStarts);
            Autograd.Tape.Own(held.Rows);
            if (begun) return _o.Forward(Absorbed(q, angles, held, pass.SeqStarts), pass);
        }
        var (Q, K, V) = MlaHeads.Apply(q, _kvB.Forward(latent, pass), rotaryKey, _settings.Heads, _rotary, pass.Positions);
        return _o.Forward(Flatten.Apply(Attention.Apply(Q, K, V, Spans.Self(pass.SeqStarts), _settings.Scale)), pass);
    }

    /// <summary>Does a sequence that gets rows now hold some already?</summary>
    private bool Begun(KvCache cache, int[] seqStarts)
    {
        for (var s = 0; s + 1 < seqStarts.Length; s++)
            if (seqStarts[s + 1] > seqStarts[s] && cache.Length(Path, s) > 0) return true;
        return false;
    }

    private Tensor Absorbed(Tensor q, Tensor angles, CachedRows held, int[] seqStarts)
    {
        (Tensor, Tensor, float)? low = _kvB.Adapter is { } a ? (a.A, a.B, a.Scale) : null;
        var queries = AbsorbedQueries.Apply(q, angles, _kvB.Weight, low, _settings.Heads);
        var context = LatentAttention.Apply(queries, held.Rows, seqStarts, held.Begins, held.Counts, _settings.KvRank, _settings.Scale);
        return AbsorbedValues.Apply(context, _kvB.Weight, low, _settings.Heads);
    }
}
