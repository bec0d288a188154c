using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Experts;

/// <param name="Width">D.</param>
/// <param name="Experts">E.</param>
/// <param name="Inner">I of a routed expert.</param>
/// <param name="SharedInner">Width of the shared expert, 0 for none.</param>
/// <param name="Router">How experts are chosen.</param>
public sealed record MoeSettings(int Width, int Experts, int Inner, int SharedInner, RouterSettings Router)
{
    /// <summary>What the checkpoint calls the router.</summary>
    public string RouterName { get; init; } = "gate";

    public bool RouterBias { get; init; }

    /// <summary>L of a clamped SwiGLU with biases (gpt-oss); 0: SwiGLU.</summary>
    public float Clamp { get; init; }

    /// <summary>What the checkpoint calls the experts' matrices, by the path of the bank.</summary>
    public Func<string, ExpertNames> Names { get; init; } = ExpertNames.Each;
}

/// <summary>
/// Mixture-of-experts feed-forward part: a router (W [E, D], and a correction bias [E] where scores are sigmoids; both kept in F32) picks k experts a
/// token, their weighted outputs are added to the shared expert's, if there is one.
/// </summary>
public sealed class MoeMlp : Block
{
    private const string BiasName = ".gate.e_score_correction_bias";
    private readonly Nn.Linear _router;
    private readonly Tensor? _bias;

    public MoeMlp(IWeights weights, string path, DType type, MoeSettings settings)
        : base(path)
    {
        ArgumentNullException.ThrowIfNull(settings);
        var (D, E, shared) = (settings.Width, settings.Experts, settings.SharedInner);
        _router = new Nn.Linear(weights, $"{path}.{settings.RouterName}", DType.F32, E, D, settings.RouterBias);
        _bias = settings.Router.Scoring == RouterScoring.Sigmoid ? weights.Take(path + BiasName, DType.F32, E) : null;
        Experts = new ExpertBank(weights, settings.Names(path + ".experts"), type, E, D, settings.Inner, settings.Clamp)
        {
            TopK = settings.Router.TopK,
        };
        Shared = shared > 0 ? new SwiGluMlp(weights, path + ".shared_experts", type, D, shared) : null;
        Settings = settings.Router;
    }

    public ExpertBank Experts { get; }

    /// <summary>The correction bias alone: no function of the loss, so never trained by it.</summary>
    public override IEnumerable<Parameter> Weights => _bias is null ? [] : [new(Path + BiasName, _bias)];

    public override bool CanLearn => false;

    public SwiGluMlp? Shared { get; }

    /// <summary>Pre-training sets the balance term here.</summary>
    public RouterSettings Settings { get; set; }

    /// <summary>
    /// Called with the indices [T, k] of every forward pass, for routing pictures, in training from the thread of the card; null: nobody looks.
    /// </summary>
    public Action<string, Tensor>? OnRouted { get; set; }

    public override IEnumerable<Module> Children => Shared is { } shared ? [_router, Experts, shared] : [_router, Experts];

    public override Tensor Forward(Tensor x, Pass pass) => Shared is { } shared ? Add.Apply(Routed(x, pass), shared.Forward(x, pass)) : Routed(x, pass);

    /// <summary>The same bits as the sum of <see cref="Forward"/>, in one pass over the rows.</summary>
    public override Tensor AddTo(Tensor residual, Tensor x, Pass pass) => Shared is { } shared
        ? Add.Apply(residual, Routed(x, pass), shared.Forward(x, pass)) : base.AddTo(residual, x, pass);

    private Tensor Routed(Tensor x, Pass pass)
    {
        var logits = _router.Forward(x, pass, DType.F32);
        if (pass is { Routing: { IsSequenceWise: true } wise, ValueUnused: true })
            logits = AddSlope.Apply(logits, Autograd.Tape.Own(wise.Slopes(Path, logits, pass.FirstRow, Settings.Scoring)));
        var settings = pass is { Routing.Balance: var balance, ValueUnused: true } ? Settings with { Pooled = balance } : Settings;
        var (weights, indices) = Router.Apply(logits, settings, _bias);
        if (pass is { Routing: { } routing, ValueUnused: false }) routing.Observe(Path, logits, indices, pass.FirstRow, Settings.Scoring);
        OnRouted?.Invoke(Path, indices);
        return Experts.Forward(x, weights, indices, pass);
    }
}
