using System.Numerics.Tensors;

using KtNotebooks.Nn;

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

    protected override IEnumerable<(string Name, long[] Shape)> Memories(Parameter parameter)
    {
        var shape = parameter.Tensor.Shape.ToArray();
        return IsMatrix(parameter) ? [("m", shape)] : [("m", shape), ("v", shape)];
    }

    protected override void Update(Parameter parameter, float[] w, float[] g, Tensor[] memories, double rate, double decay)
    {
        var m = memories[0].Span<float>();
        if (memories.Length == 2)
        {
            Adam(w, g, m, memories[1].Span<float>(), rate, decay);
            return;
        }
        int rows = (int)parameter.Tensor.Shape[^2], columns = (int)parameter.Tensor.Shape[^1], size = rows * columns;
        var (scale, kept) = ((float)(rate * 0.2 * Math.Sqrt(Math.Max(rows, columns))), (float)(1 - (rate * decay)));
        for (var from = 0; from < w.Length; from += size)
        {
            var u = new float[size];
            for (var i = 0; i < size; i++)
            {
                m[from + i] = (Momentum * m[from + i]) + g[from + i];
                u[i] = g[from + i] + (Momentum * m[from + i]);
            }
            u = Orthogonal(u, rows, columns);
            for (var i = 0; i < size; i++) w[from + i] = (w[from + i] * kept) - (scale * u[i]);
        }
    }

    /// <summary>X → aX + (bXXᵀ + c(XXᵀ)²)X five times, from x over its norm: its singular values come near one.</summary>
    internal static float[] Orthogonal(float[] x, int rows, int columns)
    {
        var tall = rows > columns;
        var (n, width) = tall ? (columns, rows) : (rows, columns);
        var X = tall ? Transposed(x, rows, columns) : x;
        TensorPrimitives.Divide(X, TensorPrimitives.Norm<float>(X) + 1e-7f, X);
        for (var round = 0; round < Rounds; round++)
        {
            var S = Product(X, X, n, n, width); // X Xᵀ
            var P = Product(S, S, n, n, n); // S is symmetric
            for (var i = 0; i < P.Length; i++) P[i] = (B * S[i]) + (C * P[i]);
            var next = Product(P, Transposed(X, n, width), n, width, n);
            for (var i = 0; i < X.Length; i++) X[i] = (A * X[i]) + next[i];
        }
        return tall ? Transposed(X, n, width) : X;
    }

    /// <summary>a [n, k] times bᵀ, b [m, k].</summary>
    private static float[] Product(float[] a, float[] b, int n, int m, int k)
    {
        var y = new float[n * m];
        for (var i = 0; i < n; i++)
            for (var j = 0; j < m; j++) y[(i * m) + j] = TensorPrimitives.Dot<float>(a.AsSpan(i * k, k), b.AsSpan(j * k, k));
        return y;
    }

    private static float[] Transposed(float[] x, int rows, int columns)
    {
        var y = new float[x.Length];
        for (var r = 0; r < rows; r++)
            for (var c = 0; c < columns; c++) y[(c * rows) + r] = x[(r * columns) + c];
        return y;
    }

    private void Adam(float[] w, float[] g, Span<float> m, Span<float> v, double rate, double decay)
    {
        var (size, correction) = (rate / (1 - Math.Pow(Settings.Beta1, Steps)), Math.Sqrt(1 - Math.Pow(Settings.Beta2, Steps)));
        for (var i = 0; i < w.Length; i++)
        {
            m[i] = (float)((Settings.Beta1 * m[i]) + ((1 - Settings.Beta1) * g[i]));
            v[i] = (float)((Settings.Beta2 * v[i]) + ((1 - Settings.Beta2) * g[i] * g[i]));
            w[i] = (float)((w[i] * (1 - (rate * decay))) - (size * m[i] / ((Math.Sqrt(v[i]) / correction) + Settings.Eps)));
        }
    }
}
