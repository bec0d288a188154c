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
