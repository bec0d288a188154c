using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Experts;

/// <summary>
/// Mixture-of-experts feed-forward part: a router (W [E, D], and a correction bias [E] where scores are sigmoids; both kept in F32) picks k experts a
/// token, their weighted outputs are added to the shared expert's, if there is one.
/// </summary>
public sealed class MoeMlp : Module
{
    private const string BiasName = ".gate.e_score_correction_bias";
    private readonly Nn.Linear _router;
    private readonly Tensor? _bias;

    /// <param name="sharedInner">Width of the shared expert, 0 for none.</param>
    public MoeMlp(IWeights weights, string path, DType type, int width, int experts, int inner, int sharedInner, RouterSettings settings)
        : base(path)
    {
        _router = new Nn.Linear(weights, path + ".gate", DType.F32, experts, width);
        _bias = settings.Scoring == RouterScoring.Sigmoid ? weights.Take(path + BiasName, DType.F32, experts) : null;
        Experts = new ExpertBank(weights, path + ".experts", type, experts, width, inner) { TopK = settings.TopK };
        Shared = sharedInner > 0 ? new SwiGluMlp(weights, path + ".shared_experts", type, width, sharedInner) : null;
        Settings = settings;
    }

    public ExpertBank Experts { get; }

    /// <summary>The correction bias alone: no function of the loss, so never trained by it.</summary>
    public override IEnumerable<Parameter> Weights => _bias is null ? [] : [new(Path + BiasName, _bias)];

    public SwiGluMlp? Shared { get; }

    /// <summary>Pre-training sets the balance term here.</summary>
    public RouterSettings Settings { get; set; }

    /// <summary>
    /// Called with the indices [T, k] of every forward pass, for routing pictures, in training from the thread of the card; null: nobody looks.
    /// </summary>
    public Action<string, Tensor>? OnRouted { get; set; }

    public override IEnumerable<Module> Children => Shared is { } shared ? [_router, Experts, shared] : [_router, Experts];

    /// <summary>x [T, D] → [T, D].</summary>
    public Tensor Forward(Tensor x, Pass pass)
    {
        var (weights, indices) = Router.Apply(_router.Forward(x, pass, DType.F32), Settings, _bias);
        OnRouted?.Invoke(Path, indices);
        var routed = Experts.Forward(x, weights, indices, pass);
        return Shared is { } shared ? Add.Apply(routed, shared.Forward(x, pass)) : routed;
    }
}
