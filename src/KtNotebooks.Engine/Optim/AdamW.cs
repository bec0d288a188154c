using System.Numerics.Tensors;

using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>Settings with the defaults of Hugging Face's trainer.</summary>
public sealed record AdamWSettings(double Beta1 = 0.9, double Beta2 = 0.999, double Eps = 1e-8, double WeightDecay = 0);

/// <summary>
/// AdamW (Loshchilov, Hutter 2019) on F32 parameters: m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; w −= lr · (m̂ / (√v̂ + ε) + decay · w), m̂ and v̂ corrected for their start at zero.
/// A parameter without a gradient in a step counts as having a zero gradient: its moments fade, as everyone's.
/// </summary>
public sealed class AdamW : IDisposable
{
    private readonly IReadOnlyList<Parameter> _parameters;
    private readonly AdamWSettings _settings;
    private readonly Tensor[] _m;
    private readonly Tensor[] _v;

    public AdamW(IReadOnlyList<Parameter> parameters, AdamWSettings settings)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        foreach (var p in parameters)
            if (p.Tensor.Type != DType.F32) throw new ArgumentException($"[AdamW] {p.Name} must be F32, but is {p.Tensor}");
        (_parameters, _settings) = (parameters, settings);
        _m = [.. parameters.Select(p => Tensor.Zeros(DType.F32, p.Tensor.Shape))];
        _v = [.. parameters.Select(p => Tensor.Zeros(DType.F32, p.Tensor.Shape))];
    }

    /// <summary>Steps taken.</summary>
    public int Steps { get; private set; }

    /// <summary>Moments by name, for checkpoints.</summary>
    public IReadOnlyList<(string Name, Tensor Tensor)> State => [.. _parameters.SelectMany((p, i) => new[] { ("m." + p.Name, _m[i]), ("v." + p.Name, _v[i]) })];

    /// <summary>Takes over saved moments.</summary>
    public void Restore(int steps, Func<string, Tensor> find)
    {
        ArgumentNullException.ThrowIfNull(find);
        foreach (var (name, tensor) in State)
        {
            using var saved = find(name);
            Memory.Copy(saved, tensor);
        }
        Steps = steps;
    }

    /// <summary>One update with gradients times <paramref name="gradientScale"/> (clipping), then gradients are freed.</summary>
    public void Step(double learningRate, double gradientScale)
    {
        Steps++;
        var correction1 = 1 - Math.Pow(_settings.Beta1, Steps);
        var correction2 = Math.Sqrt(1 - Math.Pow(_settings.Beta2, Steps));
        for (var i = 0; i < _parameters.Count; i++)
        {
            var w = _parameters[i].Tensor;
            Update(w, w.Grad, _m[i], _v[i], (float)gradientScale, (float)(learningRate / correction1), (float)correction2, learningRate);
            w.Grad?.Dispose();
            w.Grad = null;
        }
    }

    public void Dispose()
    {
        foreach (var tensor in _m.Concat(_v)) tensor.Dispose();
    }

    private void Update(Tensor w, Tensor? gradient, Tensor m, Tensor v, float scale, float rate, float correction2, double learningRate)
    {
        var (b1, b2, eps) = ((float)_settings.Beta1, (float)_settings.Beta2, (float)_settings.Eps);
        var decay = (float)(1 - (learningRate * _settings.WeightDecay));
        RowParallel.For(w.Rows, w.Width * 8L, (first, last) =>
        {
            var (a, b) = (new float[w.Width], new float[w.Width]);
            for (var row = first; row < last; row++)
            {
                var mRow = m.Row<float>(row);
                var vRow = v.Row<float>(row);
                var wRow = w.Row<float>(row);
                if (gradient is null) Array.Clear(a);
                else TensorPrimitives.Multiply(gradient.Row<float>(row), scale, a);
                TensorPrimitives.Multiply(a, 1 - b1, b);
                TensorPrimitives.MultiplyAdd(mRow, b1, b, mRow);
                TensorPrimitives.Multiply(a, a, a);
                TensorPrimitives.Multiply(a, 1 - b2, a);
                TensorPrimitives.MultiplyAdd(vRow, b2, a, vRow);
                TensorPrimitives.Sqrt(vRow, a);
                TensorPrimitives.Divide(a, correction2, a);
                TensorPrimitives.Add(a, eps, a);
                TensorPrimitives.Divide(mRow, a, a);
                TensorPrimitives.Multiply(wRow, decay, wRow);
                TensorPrimitives.MultiplyAdd(a, -rate, wRow, wRow);
            }
        });
    }
}
