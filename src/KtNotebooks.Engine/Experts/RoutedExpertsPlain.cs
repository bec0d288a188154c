using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The definition of <see cref="RoutedExperts"/> and its gradient: token by token, route by route, in double, with no sorting. The oracle of the fast
/// paths; saves what they save, in their order, so that a frame made by one can be walked back by the other.
/// </summary>
internal static class RoutedExpertsPlain
{
    public static void Forward(ExpertCall call, HostState state, Tensor output)
    {
        var (x, weights, indices, experts) = (call.X, call.Weights, call.Indices, call.Experts);
        Routes.Sort(indices, experts.Count, state.Offsets, state.Routes);
        var routes = state.Routes.ToInts();
        var (X, k, D, I) = (x.ToFloats(), weights.Width, x.Width, experts.Inner);
        var y = new double[X.Length];
        var (g, u) = (new float[routes.Length * I], new float[routes.Length * I]);
        var p = state.Kept.P.Select(t => new float[t.Count]).ToArray();
        var layer = new Layer(experts, call.Key, x.Type);
        for (var i = 0; i < routes.Length; i++)
        {
            var (route, e) = (routes[i], indices.Span<int>()[routes[i]]);
            var input = Array.ConvertAll(X.AsSpan(route / k * D, D).ToArray(), v => (double)v);
            var (gate, lowGate) = layer.Project(0, e, route, input);
            var (up, lowUp) = layer.Project(1, e, route, input);
            // The fast paths keep g and u in x's type: what they round, the definition rounds.
            var hidden = new double[I];
            for (var c = 0; c < I; c++)
            {
                (g[(i * I) + c], u[(i * I) + c]) = (Rounded(gate[c], x.Type), Rounded(up[c], x.Type));
                hidden[c] = Rounded(Hidden(experts, e, c, g[(i * I) + c], u[(i * I) + c]).H, x.Type);
            }
            var (down, lowDown) = layer.Project(2, e, route, hidden);
            for (var c = 0; c < D; c++) y[(route / k * D) + c] += weights.Span<float>()[route] * Rounded(down[c], x.Type);
            double[][] low = [lowGate, lowUp, lowDown];
            for (var m = 0; m < p.Length; m++) Array.ConvertAll(low[m], v => (float)v).CopyTo(p[m], i * low[m].Length);
        }
        output.Store(Array.ConvertAll(y, v => (float)v));
        state.Kept.Gate.Store(g);
        state.Kept.Up.Store(u);
        for (var m = 0; m < p.Length; m++) state.Kept.P[m].Store(p[m]);
    }

    public static void Backward(ExpertCall call, HostState state, Tensor dOutput, ExpertGradients to)
    {
        var (dy, x, weights, indices, experts) = (dOutput.ToFloats(), call.X.ToFloats(), call.Weights, call.Indices, call.Experts);
        var (routes, G, U) = (state.Routes.ToInts(), state.Kept.Gate.ToFloats(), state.Kept.Up.ToFloats());
        var (k, D, I, type) = (weights.Width, call.X.Width, experts.Inner, call.X.Type);
        var (dx, dw) = (new double[x.Length], new float[routes.Length]);
        var layer = new Layer(experts, call.Key, type);
        var sums = to.Trained is not null ? experts.Trained.Select(t => new double[t.Count]).ToArray() : null;
        for (var i = 0; i < routes.Length; i++)
        {
            var (route, e) = (routes[i], indices.Span<int>()[routes[i]]);
            var (token, weight) = (route / k, (double)weights.Span<float>()[route]);
            var input = Array.ConvertAll(x.AsSpan(token * D, D).ToArray(), v => (double)v);
            var dOut = Array.ConvertAll(dy.AsSpan(token * D, D).ToArray(), v => (double)v);
            var hidden = new double[I];
            for (var c = 0; c < I; c++) hidden[c] = Rounded(Hidden(experts, e, c, G[(i * I) + c], U[(i * I) + c]).H, type);
            var dHidden = layer.Back(2, e, route, dOut);
            double dot = 0;
            for (var c = 0; c < I; c++) dot += dHidden[c] * hidden[c];
            dw[route] = (float)dot;
            var (dGate, dUp) = (new double[I], new double[I]);
            for (var c = 0; c < I; c++)
            {
                var (_, gate, up) = Hidden(experts, e, c, G[(i * I) + c], U[(i * I) + c]);
                dGate[c] = weight * dHidden[c] * gate;
                dUp[c] = weight * dHidden[c] * up;
            }
            var (fromGate, fromUp) = (layer.Back(0, e, route, dGate), layer.Back(1, e, route, dUp));
            for (var c = 0; c < D; c++) dx[(token * D) + c] += fromGate[c] + fromUp[c];
            if (sums is null) continue;
            layer.AddGradient(0, e, route, input, dGate, sums);
            layer.AddGradient(1, e, route, input, dUp, sums);
            layer.AddGradient(2, e, route, hidden, Array.ConvertAll(dOut, v => v * weight), sums);
        }
        to.X.Store(Array.ConvertAll(dx, v => (float)v));
        to.Weights.Store(dw);
        for (var m = 0; sums is not null && m < sums.Length; m++) to.Trained![m].Store(Array.ConvertAll(sums[m], v => (float)v));
    }

    /// <summary>h, dh/dg, dh/du.</summary>
    private static (double H, double Gate, double Up) Hidden(ExpertSet experts, int e, int c, double g, double u)
    {
        if (experts.Glu is { } glu) return glu.At(e, c, g, u);
        var s = 1 / (1 + Math.Exp(-g));
        return (g * s * u, u * s * (1 + (g * (1 - s))), g * s);
    }

    private static float Rounded(double value, DType type) => type == DType.BF16 ? Bf16.Round((float)value) : (float)value;

    /// <summary>One layer's matrices as floats: projection 0 gate, 1 up, 2 down.</summary>
    private sealed class Layer(ExpertSet experts, RouteKey key, DType rows)
    {
        private readonly float[][][] _w = [.. new[] { experts.Gate, experts.Up, experts.Down }.Select(m => Read(m, rows))];
        private readonly float[][][] _a = experts.Lora is { } l ? [.. new[] { l.GateA, l.UpA, l.DownA }.Select(t => Read(Matrices.Stack(t), DType.F32))] : [];
        private readonly float[][][] _b = experts.Lora is { } l ? [.. new[] { l.GateB, l.UpB, l.DownB }.Select(t => Read(Matrices.Stack(t), DType.F32))] : [];

        /// <summary>W v + scale · B A (m∘v), and A (m∘v).</summary>
        public (double[] Output, double[] Low) Project(int m, int e, int route, double[] v)
        {
            var output = Multiply(_w[m][e], v);
            if (_a.Length == 0) return (output, []);
            var low = Multiply(_a[m][e], Masked(m, route, v));
            var update = Multiply(_b[m][e], low);
            for (var i = 0; i < output.Length; i++) output[i] += experts.Lora!.Scale * update[i];
            return (output, low);
        }

        /// <summary>Wᵀ d + m∘(Aᵀ q), q = scale · Bᵀ d.</summary>
        public double[] Back(int m, int e, int route, double[] d)
        {
            var output = MultiplyTransposed(_w[m][e], d);
            if (_a.Length == 0) return output;
            var update = Masked(m, route, MultiplyTransposed(_a[m][e], Q(m, e, d)));
            for (var i = 0; i < output.Length; i++) output[i] += update[i];
            return output;
        }

        /// <summary>Adds dW, or dA and dB, of one route.</summary>
        public void AddGradient(int m, int e, int route, double[] input, double[] d, double[][] sums)
        {
            if (_a.Length == 0)
            {
                AddOuter(sums[m], e * d.Length * input.Length, d, input, 1);
                return;
            }
            var masked = Masked(m, route, input);
            var q = Q(m, e, d);
            AddOuter(sums[2 * m], e * q.Length * masked.Length, q, masked, 1);
            AddOuter(sums[(2 * m) + 1], e * d.Length * q.Length, d, Multiply(_a[m][e], masked), experts.Lora!.Scale);
        }

        private static float[][] Read(Matrices matrices, DType rows) => [.. Enumerable.Range(0, matrices.Count).Select(e => matrices.ToFloats(e, rows))];

        private double[] Q(int m, int e, double[] d)
        {
            var q = MultiplyTransposed(_b[m][e], d);
            for (var i = 0; i < q.Length; i++) q[i] *= experts.Lora!.Scale;
            return q;
        }

        private double[] Masked(int m, int route, double[] v)
        {
            var mask = key.Mask(experts, m);
            if (!mask.Active) return v;
            var masked = new double[v.Length];
            for (var i = 0; i < v.Length; i++) masked[i] = v[i] * mask.At(route, i);
            return masked;
        }

        private static double[] Multiply(float[] w, double[] v)
        {
            var y = new double[w.Length / v.Length];
            for (var i = 0; i < y.Length; i++)
                for (var j = 0; j < v.Length; j++) y[i] += w[(i * v.Length) + j] * v[j];
            return y;
        }

        private static double[] MultiplyTransposed(float[] w, double[] d)
        {
            var y = new double[w.Length / d.Length];
            for (var i = 0; i < d.Length; i++)
                for (var j = 0; j < y.Length; j++) y[j] += w[(i * y.Length) + j] * d[i];
            return y;
        }

        private static void AddOuter(double[] sum, int at, double[] rows, double[] columns, double scale)
        {
            for (var i = 0; i < rows.Length; i++)
                for (var j = 0; j < columns.Length; j++) sum[at + (i * columns.Length) + j] += scale * rows[i] * columns[j];
        }
    }
}
