using System.Numerics.Tensors;

using KtNotebooks.Formats;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>
/// Muon (Jordan et al. 2024) with Moonlight's size of a step (Liu et al. 2025), as LLaMA-Factory's use_muon: m = 0.95m + g, u = g + 0.95m made nearly
/// orthogonal by five Newton-Schulz steps, w = w(1 − lr · decay) − 0.2 √max(rows, columns) · lr · u, so that AdamW's learning rates hold. A stack of matrices
/// is as many. Vectors, the token table and the head take AdamW's step.
/// </summary>
public sealed class Muon(IReadOnlyList<Parameter> parameters, AdamWSettings settings, Func<string, double>? rateOf = null,
    Func<string, bool>? decays = null)
    : HostOptimizer(parameters, settings, rateOf, decays)
{
    private const float Momentum = 0.95f, A = 3.4445f, B = -4.775f, C = 2.0315f;
    private const int Rounds = 5;

    private static bool IsMatrix(Parameter p) => p.Tensor.Shape.Length >= 2 && !p.Name.Contains("embed", StringComparison.Ordinal)
        && !p.Name.Contains("lm_head", StringComparison.Ordinal);

    /// <summary>The products of a matrix are for all threads.</summary>
    protected override bool IsDivided(Parameter parameter) => IsMatrix(parameter);

    protected override IEnumerable<(string Name, long[] Shape)> Memories(Parameter parameter)
    {
        var shape = parameter.Tensor.Shape.ToArray();
        return IsMatrix(parameter) ? [("m", shape)] : [("m", shape), ("v", shape)];
    }

    protected override void Update(Parameter parameter, float[] w, float[] g, Tensor[] memories, double rate, double decay)
    {
        if (!IsMatrix(parameter))
        {
            AdamW.Update(g, 1, w, memories[0].Span<float>(), memories[1].Span<float>(), AdamWFactors.Of(Settings, Steps, rate, decay));
            return;
        }
        var (m, columns) = (memories[0], (int)parameter.Tensor.Shape[^1]);
        using var u = Tensor.Empty(DType.F32, w.Length / columns / parameter.Tensor.Shape[^2], parameter.Tensor.Shape[^2], columns);
        Each(w.Length, (at, size) =>
        {
            var gs = g.AsSpan(at, size);
            var ms = m.Span<float>().Slice(at, size);
            TensorPrimitives.MultiplyAdd(ms, Momentum, gs, ms);
            TensorPrimitives.MultiplyAdd(ms, Momentum, gs, u.Span<float>().Slice(at, size));
        });
        Orthogonalize(u);
        var (scale, kept) = ((float)(rate * 0.2 * Math.Sqrt(Math.Max(u.Dim(1), columns))), (float)(1 - (rate * decay)));
        Each(w.Length, (at, size) =>
        {
            var ws = w.AsSpan(at, size);
            TensorPrimitives.Multiply(ws, kept, ws);
            TensorPrimitives.MultiplyAdd(u.Span<float>().Slice(at, size), -scale, ws, ws);
        });
    }

    /// <summary>
    /// Of every matrix of x [E, rows, columns]: X → aX + (bXXᵀ + c(XXᵀ)²)X five times, from X over its norm: its singular values come near one. Of one with
    /// more rows than columns XᵀX is multiplied from the right: the same with fewer products. 10 · E · (2 rows · columns · n + n³) FLOP, n the lesser side.
    /// </summary>
    internal static void Orthogonalize(Tensor x)
    {
        int count = (int)x.Dim(0), rows = (int)x.Dim(1), columns = x.Width, n = Math.Min(rows, columns);
        using var square = Tensor.Empty(DType.F32, count, n, n); // S = XXᵀ or XᵀX
        using var fourth = Tensor.Empty(DType.F32, count, n, n); // S², then P = bS + cS²
        using var next = Tensor.Empty(DType.F32, count, rows, columns);
        int[] ofX = [.. Enumerable.Range(0, count + 1).Select(e => e * rows)], ofS = [.. Enumerable.Range(0, count + 1).Select(e => e * n)];
        var (X, S, P) = (Matrices.Stack(x), Matrices.Stack(square), Matrices.Stack(fourth));
        RowParallel.For(count, (long)rows * columns, (first, last) =>
        {
            for (var e = (int)first; e < last; e++)
            {
                var one = x.Span<float>().Slice(e * rows * columns, rows * columns);
                TensorPrimitives.Divide(one, TensorPrimitives.Norm<float>(one) + 1e-7f, one);
            }
        });
        for (var round = 0; round < Rounds; round++)
        {
            if (rows > columns) GroupedMatmul.WeightGrad(ofX, x, x, S);
            else GroupedMatmul.Forward(ofX, x, null, X, null, null, 0, null, square);
            GroupedMatmul.Forward(ofS, square, null, S, null, null, 0, null, fourth); // S is symmetric
            Each((int)square.Count, (at, size) =>
            {
                var p = fourth.Span<float>().Slice(at, size);
                TensorPrimitives.Multiply(p, C, p);
                TensorPrimitives.MultiplyAdd(square.Span<float>().Slice(at, size), B, p, p);
            });
            if (rows > columns) GroupedMatmul.Forward(ofX, x, null, P, null, null, 0, null, next); // XP, and P is symmetric
            else GroupedMatmul.InputGrad(ofS, fourth, X, null, null, 0, null, next, null); // PX
            Each((int)x.Count, (at, size) =>
            {
                var xs = x.Span<float>().Slice(at, size);
                TensorPrimitives.MultiplyAdd(xs, A, next.Span<float>().Slice(at, size), xs);
            });
        }
    }

    /// <summary>body(first, count) for parts of [0, elements), on all threads.</summary>
    private static void Each(int elements, Action<int, int> body) =>
        RowParallel.For(elements, 1, (first, last) => body((int)first, (int)(last - first)));
}
