using KtNotebooks.Nn;

namespace KtNotebooks.Optim;

/// <summary>
/// Adafactor (Shazeer, Stern 2018) as transformers' trainer sets it: a given learning rate (neither relative steps nor scaled by the parameter), no first
/// moment. With β = 1 − t^−0.8 and u = g² + 1e−30, of matrices the means of u over rows and over columns are remembered, R and C, and v = R Cᵀ / mean(R);
/// of vectors v itself. The update g / √v is divided by max(1, its root mean square); w −= lr · (update + decay · w). A stack of matrices is as many.
/// </summary>
public sealed class Adafactor(IReadOnlyList<Parameter> parameters, AdamWSettings settings, Func<string, double>? rateOf = null,
    Func<string, bool>? decays = null)
    : HostOptimizer(parameters, settings, rateOf, decays)
{
    private const double Smallest = 1e-30, DecayPower = -0.8, Clip = 1;

    protected override IEnumerable<(string Name, long[] Shape)> Memories(Parameter parameter)
    {
        var shape = parameter.Tensor.Shape.ToArray();
        return shape.Length < 2 ? [("v", shape)] : [("row", shape[..^1]), ("column", [.. shape[..^2], shape[^1]])];
    }

    protected override void Update(Parameter parameter, float[] w, float[] g, Tensor[] memories, double rate, double decay)
    {
        var beta = 1 - Math.Pow(Steps, DecayPower);
        var update = new float[w.Length];
        if (memories.Length == 1)
        {
            var v = memories[0].Span<float>();
            for (var i = 0; i < w.Length; i++)
            {
                v[i] = (float)((beta * v[i]) + ((1 - beta) * (((double)g[i] * g[i]) + Smallest)));
                update[i] = (float)(g[i] / Math.Sqrt(v[i]));
            }
        }
        else
        {
            var shape = parameter.Tensor.Shape;
            int rows = (int)shape[^2], columns = (int)shape[^1], matrices = w.Length / Math.Max(1, rows * columns);
            for (var at = 0; at < matrices; at++)
                Matrix(g.AsSpan(at * rows * columns, rows * columns), update.AsSpan(at * rows * columns, rows * columns),
                    memories[0].Span<float>().Slice(at * rows, rows), memories[1].Span<float>().Slice(at * columns, columns), beta);
        }
        double squares = 0;
        foreach (var value in update) squares += (double)value * value;
        var scale = rate / Math.Max(1, Math.Sqrt(squares / Math.Max(1, update.Length)) / Clip);
        for (var i = 0; i < w.Length; i++) w[i] = (float)(w[i] - (rate * decay * w[i]) - (scale * update[i]));
    }

    private static void Matrix(ReadOnlySpan<float> g, Span<float> update, Span<float> row, Span<float> column, double beta)
    {
        var (rows, columns) = (row.Length, column.Length);
        var sums = new double[columns];
        double mean = 0;
        for (var r = 0; r < rows; r++)
        {
            double sum = 0;
            for (var c = 0; c < columns; c++)
            {
                var u = ((double)g[(r * columns) + c] * g[(r * columns) + c]) + Smallest;
                sum += u;
                sums[c] += u;
            }
            row[r] = (float)((beta * row[r]) + ((1 - beta) * sum / columns));
            mean += row[r];
        }
        mean /= rows;
        for (var c = 0; c < columns; c++) column[c] = (float)((beta * column[c]) + ((1 - beta) * sums[c] / rows));
        for (var r = 0; r < rows; r++)
            for (var c = 0; c < columns; c++)
                update[(r * columns) + c] = (float)(g[(r * columns) + c] / (Math.Sqrt(row[r] / mean) * Math.Sqrt(column[c])));
    }
}
