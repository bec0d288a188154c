using KtNotebooks.Interop;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>
/// An optimizer that works on the host, parameter by parameter; those of a card are fetched and brought back, 12 bytes an F32 element over the bus. A parameter
/// without a gradient in a step counts as having a zero gradient. BF16 parameters are rounded by chance (<see cref="Stochastic"/>).
/// </summary>
public abstract class HostOptimizer : IOptimizer
{
    private readonly IReadOnlyList<Parameter> _parameters;
    private readonly Func<string, double>? _rateOf;
    private readonly Func<string, bool>? _decays;
    private readonly (string Suffix, Tensor Tensor)[][] _memories;

    protected HostOptimizer(IReadOnlyList<Parameter> parameters, AdamWSettings settings, Func<string, double>? rateOf, Func<string, bool>? decays)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        OptimizerState.RequireFloats(GetType().Name, parameters);
        (_parameters, Settings, _rateOf, _decays) = (parameters, settings, rateOf, decays);
        _memories = [.. parameters.Select(p => Memories(p).Select(m => (m.Name, Tensor.Zeros(DType.F32, m.Shape))).ToArray())];
    }

    protected AdamWSettings Settings { get; }

    public int Steps { get; private set; }

    public IReadOnlyList<(string Name, Tensor Tensor)> State =>
        [.. _parameters.SelectMany((p, i) => _memories[i].Select(m => ($"{m.Suffix}.{p.Name}", m.Tensor)))];

    public void Restore(int steps, Func<string, Tensor> find)
    {
        OptimizerState.Restore(State, find);
        Steps = steps;
    }

    public void Step(double learningRate, double gradientScale)
    {
        WeightVersion.Change();
        Steps++;
        var divided = _parameters.Select(IsDivided).ToArray();
        int[] whole = [.. Enumerable.Range(0, divided.Length).Where(i => !divided[i])];
        CpuLoop.For(whole.Length, i => Change(whole[i], learningRate, gradientScale));
        for (var i = 0; i < divided.Length; i++)
            if (divided[i]) Change(i, learningRate, gradientScale);
        OptimizerState.FreeGradients(_parameters);
    }

    public void Dispose()
    {
        foreach (var (_, tensor) in _memories.SelectMany(m => m)) tensor.Dispose();
        GC.SuppressFinalize(this);
    }

    private void Change(long i, double learningRate, double gradientScale)
    {
        var (name, tensor) = _parameters[(int)i];
        var (w, g) = (tensor.ToFloats(), tensor.Grad?.ToFloats() ?? new float[tensor.Count]);
        if (gradientScale != 1)
            for (var j = 0; j < g.Length; j++) g[j] = (float)(g[j] * gradientScale);
        Update(_parameters[(int)i], w, g, [.. _memories[i].Select(m => m.Tensor)], learningRate * (_rateOf?.Invoke(name) ?? 1),
            _decays?.Invoke(name) ?? true ? Settings.WeightDecay : 0);
        using var changed = Tensor.Empty(tensor.Type, tensor.Shape);
        if (tensor.Type == DType.BF16) Stochastic.Narrow(w, changed.Span<ushort>(), Stochastic.Key(name, Steps), 0);
        else w.CopyTo(changed.Span<float>());
        Memory.Copy(changed, tensor);
    }

    /// <summary>What is remembered of a parameter: names and shapes.</summary>
    protected abstract IEnumerable<(string Name, long[] Shape)> Memories(Parameter parameter);

    /// <summary>Whether <see cref="Update"/> divides its own work among the threads: such parameters take their turn one by one, all others at once.</summary>
    protected virtual bool IsDivided(Parameter parameter) => false;

    /// <summary>Changes w by g, and what is remembered; from several threads, each for other parameters.</summary>
    protected abstract void Update(Parameter parameter, float[] w, float[] g, Tensor[] memories, double rate, double decay);
}

/// <summary>What all optimizers do with what they remember.</summary>
internal static class OptimizerState
{
    public static void RequireFloats(string optimizer, IReadOnlyList<Parameter> parameters)
    {
        foreach (var p in parameters)
            if (!p.Tensor.Type.IsFloat()) throw new ArgumentException($"[{optimizer}] {p.Name} must be F32 or BF16, but is {p.Tensor}");
    }

    public static void Restore(IEnumerable<(string Name, Tensor Tensor)> state, Func<string, Tensor> find)
    {
        ArgumentNullException.ThrowIfNull(find);
        foreach (var (name, tensor) in state)
        {
            using var saved = find(name);
            if (saved.Type != tensor.Type || !saved.HasShape(tensor.Shape))
                throw new InvalidDataException($"optimizer state '{name}' must be [{string.Join(", ", tensor.Shape.ToArray())}], but "
                    + $"is {saved}: it belongs to another run");
            Memory.Copy(saved, tensor);
        }
    }

    public static void FreeGradients(IReadOnlyList<Parameter> parameters)
    {
        foreach (var (_, tensor) in parameters)
        {
            tensor.Grad?.Dispose();
            tensor.Grad = null;
        }
    }
}
