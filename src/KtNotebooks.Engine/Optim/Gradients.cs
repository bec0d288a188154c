using System.Numerics.Tensors;

using KtNotebooks.Nn;

namespace KtNotebooks.Optim;

/// <summary>The gradients of a list of parameters, seen as one long vector.</summary>
public static class Gradients
{
    /// <summary>√Σ g², summed in double in parameter order.</summary>
    public static double Norm(IReadOnlyList<Parameter> parameters)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        double sum = 0;
        foreach (var parameter in parameters)
        {
            if (parameter.Tensor.Grad is not { } gradient) continue;
            for (long row = 0; row < gradient.Rows; row++) sum += TensorPrimitives.SumOfSquares<float>(gradient.Row<float>(row));
        }
        return Math.Sqrt(sum);
    }

    /// <summary>What gradients must be multiplied by so that their norm is at most <paramref name="max"/> (torch's clip_grad_norm_); 1 where max is 0 or below.</summary>
    public static double ClipScale(double norm, double max) => max <= 0 ? 1 : Math.Min(1, max / (norm + 1e-6));
}
