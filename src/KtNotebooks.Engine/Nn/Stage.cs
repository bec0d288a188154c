
namespace KtNotebooks.Nn;

/// <summary>
/// One residual half of a decoder layer, x + f(norm(x)): the unit that the layer-major step runs over all rows, saves the input of, and recomputes in backward.
/// </summary>
public abstract class Stage(string path) : Module(path)
{
    /// <summary>Rows depend on other rows of their sequence, so a chunk must hold whole sequences.</summary>
    public virtual bool NeedsWholeSequences => false;

    /// <summary>x [T, D] → [T, D].</summary>
    public abstract Tensor Forward(Tensor x, Pass pass);
}

/// <summary>Attention or a feed-forward part: what a residual stage adds to the stream.</summary>
public abstract class Block(string path) : Module(path)
{
    /// <summary>x [T, D] → [T, D].</summary>
    public abstract Tensor Forward(Tensor x, Pass pass);

    /// <summary>residual + f(x), both [T, D].</summary>
    public virtual Tensor AddTo(Tensor residual, Tensor x, Pass pass) => Ops.Add.Apply(residual, Forward(x, pass));
}

/// <summary>The stage that every model here is made of: a norm, and attention or a feed-forward part.</summary>
/// <param name="path">Of the decoder layer.</param>
/// <param name="norm">Before the inner part.</param>
/// <param name="inner">f.</param>
/// <param name="wholeSequences">Attention.</param>
public sealed class Residual(string path, RmsNorm norm, Block inner, bool wholeSequences = false) : Stage(path)
{
    public override bool NeedsWholeSequences => wholeSequences;

    public override IEnumerable<Module> Children => [norm, inner];

    public override Tensor Forward(Tensor x, Pass pass) => inner.AddTo(x, norm.Forward(x), pass);
}
