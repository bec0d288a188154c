using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Nn;

/// <param name="Width">D.</param>
/// <param name="Heads">Head sizes; H · head need not be D.</param>
/// <param name="Eps">Of the norms of query and key heads.</param>
public sealed record GqaSettings(int Width, GqaShape Heads, float Eps)
{
    /// <summary>Query and key heads are normalised.</summary>
    public bool Norms { get; init; } = true;

    /// <summary>Queries, keys and values have biases.</summary>
    public bool Biases { get; init; }

    /// <summary>The last projection has one.</summary>
    public bool OutputBias { get; init; }

    /// <summary>The softmax of a head has one learned logit more.</summary>
    public bool Sinks { get; init; }

    /// <summary>A token sees the last so many alone, itself among them; 0: all.</summary>
    public int Window { get; init; }

    /// <summary>Softmax scale, 1/√d.</summary>
    public float Scale => 1 / MathF.Sqrt(Heads.Head);
}

/// <summary>Grouped-query attention; query and key heads are normalised or not (Qwen3 does), and turn as far as the rotary table is wide.</summary>
public sealed class GqaAttention : Block
{
    private readonly GqaSettings _settings;
    private readonly RotaryTable _rotary;
    private readonly Linear _q;
    private readonly Linear _k;
    private readonly Linear _v;
    private readonly Linear _o;
    private readonly Tensor? _sinks;
    private readonly RmsNorm? _qNorm;
    private readonly RmsNorm? _kNorm;

    public GqaAttention(IWeights weights, string path, DType type, GqaSettings settings, RotaryTable rotary)
        : base(path)
    {
        ArgumentNullException.ThrowIfNull(settings);
        (_settings, _rotary) = (settings, rotary);
        var (D, s) = (settings.Width, settings.Heads);
        _q = new Linear(weights, path + ".q_proj", type, s.H * s.Head, D, settings.Biases);
        _k = new Linear(weights, path + ".k_proj", type, s.Hk * s.Head, D, settings.Biases);
        _v = new Linear(weights, path + ".v_proj", type, s.Hk * s.Head, D, settings.Biases);
        if (settings.Norms)
        {
            _qNorm = new RmsNorm(weights, path + ".q_norm", s.Head, settings.Eps);
            _kNorm = new RmsNorm(weights, path + ".k_norm", s.Head, settings.Eps);
        }
        _o = new Linear(weights, path + ".o_proj", type, D, s.H * s.Head, settings.OutputBias);
        _sinks = settings.Sinks ? weights.Take(path + ".sinks", DType.F32, s.H) : null;
    }

    /// <summary>The sinks alone: frozen.</summary>
    public override IEnumerable<Parameter> Weights => _sinks is null ? [] : [new(Path + ".sinks", _sinks)];

    public override bool CanLearn => false;

    public override IEnumerable<Module> Children => _settings.Norms ? [_q, _k, _v, _qNorm!, _kNorm!, _o] : [_q, _k, _v, _o];

    /// <summary>x [T, D] → [T, D].</summary>
    public override Tensor Forward(Tensor x, Pass pass)
    {
        var all = Linear.ForwardEach(x, pass, _q, _k, _v);
        var (Q, K, V) = GqaHeads.Apply(all[0], all[1], all[2], _qNorm?.Weight, _kNorm?.Weight, _settings.Heads, _rotary, pass.Positions, _settings.Eps,
            pass.Cache?.Lists);
        Tensor attended;
        if (pass.Cache is { } cache)
        {
            var (keys, values) = cache.Append(Path, K, V, pass.SeqStarts);
            attended = CachedAttention.Apply(Q, keys, values!, pass.SeqStarts, cache.Table, _settings.Scale,
                _settings.Window, _sinks, cache.Lists);
        }
        else attended = Attention.Apply(Q, K, V, Spans.Self(pass.SeqStarts) with { Window = _settings.Window }, _settings.Scale, _sinks);
        return _o.Forward(Flatten.Apply(attended), pass);
    }
}
