using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// PiSSA's start of a pair (Meng et al. 2024): the largest r singular values of W = U S Vᵀ, A = √(S/s) Vᵀ and B = U √(S/s) with the pair's scale s, so that
/// s·B·A is the part of W that matters most. By subspace iteration (Halko, Martinsson, Tropp 2011) on the host in double, from a start that only name and
/// seed decide: a run that goes on has the same pair.
/// </summary>
internal static class PrincipalPair
{
    /// <summary>Directions beyond the rank, which make the last of the wanted ones exact sooner.</summary>
    private const int Beyond = 8;

    /// <summary>Without a number of rounds they end when no singular value moves by more than this share, or after so many.</summary>
    private const double Still = 1e-10;
    private const int MostRounds = 500;

    /// <param name="rounds">pissa_iter; −1: until nothing changes.</param>
    public static LinearLora Of(Linear linear, int rank, float scale, float dropout, int rounds, ulong seed)
    {
        var (N, K) = (linear.Outputs, linear.Inputs);
        if (linear.Weight.Device.Kind == DeviceKind.Meta)
            return Made(linear, new float[rank * K], new float[N * rank], rank, scale, dropout);
        using var host = linear.Weight.ToHost();
        var (values, left, right) = Largest(host.ToFloats(), N, K, rank, rounds, new NormalRandom(seed, linear.Path + ".pissa"));
        var (a, b) = (new float[rank * K], new float[N * rank]);
        for (var j = 0; j < rank; j++)
        {
            var root = Math.Sqrt(values[j] / scale);
            for (var k = 0; k < K; k++) a[(j * K) + k] = (float)(root * right[(k * rank) + j]);
            for (var n = 0; n < N; n++) b[(n * rank) + j] = (float)(root * left[(n * rank) + j]);
        }
        return Made(linear, a, b, rank, scale, dropout);
    }

    private static LinearLora Made(Linear linear, float[] a, float[] b, int rank, float scale, float dropout)
    {
        Tensor Half(float[] values, bool trained, params ReadOnlySpan<long> shape)
        {
            var target = linear.EmptyLora(shape);
            if (target.Device.Kind != DeviceKind.Meta)
            {
                using var host = Tensor.From(values, shape);
                Memory.Copy(host, target);
            }
            target.RequiresGrad = trained;
            return target;
        }
        var taken = Array.ConvertAll(b, v => -scale * v); // y −= scale · B₀ A₀ x, the scale in B₀
        return new LinearLora(Half(a, true, rank, linear.Inputs), Half(b, true, linear.Outputs, rank), scale, dropout)
        {
            Start = (Half(a, false, rank, linear.Inputs), Half(taken, false, linear.Outputs, rank)),
        };
    }

    /// <summary>The largest r singular values of w [n, k], their left vectors [n, r] and right vectors [k, r].</summary>
    internal static (double[] Values, double[] Left, double[] Right) Largest(float[] w, int n, int k, int rank, int rounds, NormalRandom random)
    {
        var q = Math.Min(Math.Min(n, k), rank + Beyond);
        var start = new float[k * q];
        random.Fill(start, 1);
        var right = Array.ConvertAll(start, v => (double)v);
        Orthonormal(right, k, q);
        double[] before = [];
        for (var round = 0; ; round++)
        {
            var left = Product(w, right, n, k, q, transposed: false); // W Q [n, q]
            var (values, turn) = Small(left, n, q);
            var done = rounds > 0 ? round >= rounds : round >= MostRounds
                || (before.Length > 0 && Enumerable.Range(0, rank).All(j => Math.Abs(values[j] - before[j]) <= Still * Math.Max(values[0], 1e-300)));
            if (done)
            {
                var (u, v) = (Turned(left, turn, n, q, rank), Turned(right, turn, k, q, rank));
                for (var i = 0; i < u.Length; i++) u[i] /= Math.Max(values[i % rank], 1e-300);
                return (values[..rank], u, v);
            }
            before = values;
            Orthonormal(left, n, q);
            right = Product(w, left, n, k, q, transposed: true); // Wᵀ Y [k, q]
            Orthonormal(right, k, q);
        }
    }

    /// <summary>w x [n, q], x [k, q]; or wᵀ x [k, q], x [n, q].</summary>
    private static double[] Product(float[] w, double[] x, int n, int k, int q, bool transposed)
    {
        var (rows, sums) = transposed ? (k, n) : (n, k);
        var y = new double[rows * q];
        RowParallel.For(rows, (long)sums * q, (first, last) =>
        {
            for (var i = (int)first; i < last; i++)
                for (var s = 0; s < sums; s++)
                {
                    double value = transposed ? w[(s * k) + i] : w[(i * k) + s];
                    for (var j = 0; j < q; j++) y[(i * q) + j] += value * x[(s * q) + j];
                }
        });
        return y;
    }

    /// <summary>The columns of x [n, q] made orthonormal, twice, for the second time takes away what rounding left (Gram and Schmidt).</summary>
    private static void Orthonormal(double[] x, int n, int q)
    {
        for (var j = 0; j < q; j++)
        {
            for (var again = 0; again < 2; again++)
                for (var i = 0; i < j; i++)
                {
                    double dot = 0;
                    for (var r = 0; r < n; r++) dot += x[(r * q) + i] * x[(r * q) + j];
                    for (var r = 0; r < n; r++) x[(r * q) + j] -= dot * x[(r * q) + i];
                }
            double square = 0;
            for (var r = 0; r < n; r++) square += x[(r * q) + j] * x[(r * q) + j];
            var length = Math.Sqrt(square);
            for (var r = 0; r < n; r++) x[(r * q) + j] /= length > 0 ? length : 1;
        }
    }

    /// <summary>Singular values of y [n, q], the largest first, and the turn T [q, q] of which y T has orthogonal columns of those lengths.</summary>
    private static (double[] Values, double[] Turn) Small(double[] y, int n, int q)
    {
        var (work, turn) = ((double[])y.Clone(), new double[q * q]);
        for (var i = 0; i < q; i++) turn[(i * q) + i] = 1;
        // One-sided Jacobi (Hestenes 1958): turns pairs of columns until all are orthogonal.
        for (var sweep = 0; sweep < 60; sweep++)
        {
            double off = 0;
            for (var i = 0; i < q; i++)
                for (var j = i + 1; j < q; j++)
                {
                    double a = 0, b = 0, c = 0;
                    for (var r = 0; r < n; r++)
                    {
                        a += work[(r * q) + i] * work[(r * q) + i];
                        b += work[(r * q) + j] * work[(r * q) + j];
                        c += work[(r * q) + i] * work[(r * q) + j];
                    }
                    if (Math.Abs(c) <= 1e-15 * Math.Sqrt(a * b)) continue;
                    off = Math.Max(off, Math.Abs(c) / Math.Sqrt(a * b));
                    var zeta = (b - a) / (2 * c);
                    var t = Math.CopySign(1 / (Math.Abs(zeta) + Math.Sqrt(1 + (zeta * zeta))), zeta);
                    var cos = 1 / Math.Sqrt(1 + (t * t));
                    Turn(work, n, q, i, j, cos, cos * t);
                    Turn(turn, q, q, i, j, cos, cos * t);
                }
            if (off < 1e-14) break;
        }
        var lengths = new double[q];
        for (var i = 0; i < work.Length; i++) lengths[i % q] += work[i] * work[i];
        var order = Enumerable.Range(0, q).OrderByDescending(j => lengths[j]).ToArray();
        var sorted = new double[q * q];
        for (var i = 0; i < q; i++)
            for (var j = 0; j < q; j++) sorted[(i * q) + j] = turn[(i * q) + order[j]];
        return ([.. order.Select(j => Math.Sqrt(lengths[j]))], sorted);
    }

    private static void Turn(double[] x, int rows, int q, int i, int j, double cos, double sin)
    {
        for (var r = 0; r < rows; r++)
        {
            var (a, b) = (x[(r * q) + i], x[(r * q) + j]);
            (x[(r * q) + i], x[(r * q) + j]) = ((cos * a) - (sin * b), (sin * a) + (cos * b));
        }
    }

    /// <summary>x [n, q] T, of which the first r columns.</summary>
    private static double[] Turned(double[] x, double[] turn, int n, int q, int rank)
    {
        var y = new double[n * rank];
        for (var i = 0; i < n; i++)
            for (var s = 0; s < q; s++)
                for (var j = 0; j < rank; j++) y[(i * rank) + j] += x[(i * q) + s] * turn[(s * q) + j];
        return y;
    }
}
