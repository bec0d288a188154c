using KtNotebooks.Nn;
using KtNotebooks.Optim;

namespace KtNotebooks.Training;

/// <summary>The second look at a window whose loss or gradients are no numbers: where it begins.</summary>
internal static class BrokenWindow
{
    /// <param name="gradients">Their parameters, while they are still there.</param>
    /// <returns>In words; for the end of a sentence.</returns>
    public static string Find(StageWork work, TokenBatch batch, IReadOnlyList<Parameter> gradients)
    {
        if (work.FirstBroken(batch) is { } where) return $"it begins in the forward pass, {where}";
        var broken = Finite.FirstBroken(gradients.Where(p => p.Tensor.Grad is not null).Select(p => (p.Name, p.Tensor.Grad!)));
        return broken is null ? "the forward pass alone has only numbers"
            : $"it begins in the backward pass; of the gradients '{broken}' is the first that is broken";
    }
}
