using System.Numerics.Tensors;

using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Rows on their way to the experts and back. Route t·k + j is token t's j-th expert; sorted row i carries route routes[i], and rows of one expert lie
/// together.
/// </summary>
internal static class Routes
{
    /// <summary>Stable counting sort by expert. indices I32 [T, k]; fills offsets [E+1] and routes [T·k]; returns offsets.</summary>
    public static int[] Sort(Tensor indices, int experts, Tensor offsets, Tensor routes)
    {
        var expertOf = indices.Span<int>();
        var starts = new int[experts + 1];
        foreach (var e in expertOf)
        {
            if ((uint)e >= (uint)experts) throw new ArgumentException($"[RoutedExperts] expert index {e} is not in 0 … {experts - 1}");
            starts[e + 1]++;
        }
        for (var e = 0; e < experts; e++) starts[e + 1] += starts[e];
        starts.CopyTo(offsets.Span<int>());
        var next = (int[])starts.Clone();
        var sorted = routes.Span<int>();
        for (var route = 0; route < expertOf.Length; route++) sorted[next[expertOf[route]]++] = route;
        return starts;
    }

    /// <summary>xs[i] = x[routes[i] / k]. x [T, D] → [R, D]; the caller disposes it.</summary>
    public static Tensor GatherTokens(Tensor x, int[] routes, int k)
    {
        var tokens = new int[routes.Length];
        for (var i = 0; i < tokens.Length; i++) tokens[i] = routes[i] / k;
        var xs = Tensor.Empty(x.Type, x.Device, routes.Length, x.Width);
        Rows.Gather(x, tokens, xs);
        return xs;
    }

    /// <summary>mask ∘ rows with rows numbered by route, or null without dropout.</summary>
    public static Tensor? Masked(Tensor rows, int[] routes, DropoutMask mask)
    {
        if (!mask.Active) return null;
        var masked = Tensor.Empty(rows.Type, rows.Device, rows.Shape);
        mask.Apply(rows, masked, routes);
        return masked;
    }

    /// <summary>
    /// y[t] = Σ_j weights[t, j] · rows[sorted row of route t·k + j] over the routes that are there, summed in F32 in the order of j. weights null: all 1.
    /// </summary>
    public static void Combine(Tensor rows, int[] routes, int k, Tensor? weights, Tensor y)
    {
        var rowOf = new int[y.Rows * k];
        Array.Fill(rowOf, -1);
        for (var i = 0; i < routes.Length; i++) rowOf[routes[i]] = i;
        var D = y.Width;
        RowParallel.For(y.Rows, (long)k * D, (first, last) =>
        {
            var (scratch, sum) = (new float[D], new float[D]);
            for (var t = first; t < last; t++)
            {
                Array.Clear(sum);
                for (var j = 0; j < k; j++)
                {
                    var route = (int)(t * k) + j;
                    if (rowOf[route] < 0) continue;
                    var row = FloatRows.Load(rows, rowOf[route], scratch);
                    if (weights is null) TensorPrimitives.Add(row, sum, sum);
                    else TensorPrimitives.MultiplyAdd(row, weights.Span<float>()[route], sum, sum);
                }
                FloatRows.Store(y, t, sum);
            }
        });
    }
}
