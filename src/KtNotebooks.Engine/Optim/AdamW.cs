using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>Settings with the defaults of Hugging Face's trainer.</summary>
public sealed record AdamWSettings(double Beta1 = 0.9, double Beta2 = 0.999, double Eps = 1e-8, double WeightDecay = 0);

/// <summary>The factors of one step in F32. Rate = lr / (1 − β₁ᵗ); Correction = √(1 − β₂ᵗ); Decay = 1 − lr · decay.</summary>
internal readonly record struct AdamWFactors(float Beta1, float Beta2, float Rate, float Correction, float Eps, float Decay)
{
    /// <summary>Of step number <paramref name="steps"/>, from 1.</summary>
    public static AdamWFactors Of(AdamWSettings s, int steps, double rate, double decay) => new((float)s.Beta1, (float)s.Beta2,
        (float)(rate / (1 - Math.Pow(s.Beta1, steps))), (float)Math.Sqrt(1 - Math.Pow(s.Beta2, steps)), (float)s.Eps, (float)(1 - (rate * decay)));
}

/// <summary>
/// AdamW (Loshchilov, Hutter 2019) on parameters in F32, or in BF16 with moments in F32 and <see cref="Stochastic"/> rounding: m = β₁m + (1−β₁)g; v = β₂v +
/// (1−β₂)g²; w −= lr · (m̂ / (√v̂ + ε) + decay · w), m̂ and v̂ corrected
/// for their start at zero. A parameter without a gradient in a step counts as having a zero gradient: its moments fade, as everyone's. Moments live where
/// their parameter lives; the parameters of a device are updated in one go, 28 bytes of memory traffic an element, and a card gives the bits that the CPU
/// gives.
/// </summary>
public sealed class AdamW : IOptimizer
{
    private readonly IReadOnlyList<Parameter> _parameters;
    private readonly AdamWSettings _settings;
    private readonly Tensor[] _m;
    private readonly Tensor[] _v;
    private readonly List<Group> _groups = [];

    /// <param name="momentsOnHost">Moments of parameters on such a card lie in pinned host memory, which the update reads and writes over the bus: 16 bytes an
    /// element instead of two thirds of the card's optimizer memory.</param>
    /// <param name="rateOf">What a parameter's learning rate is multiplied with, by its name; null: 1 for all.</param>
    /// <param name="decays">Whether a parameter decays, by its name; null: all do.</param>
    public AdamW(IReadOnlyList<Parameter> parameters, AdamWSettings settings, Func<Device, bool>? momentsOnHost = null, Func<string, double>? rateOf = null,
        Func<string, bool>? decays = null)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        OptimizerState.RequireFloats(nameof(AdamW), parameters);
        (_parameters, _settings) = (parameters, settings);
        _m = [.. parameters.Select(p => Moments(p.Tensor, momentsOnHost?.Invoke(p.Tensor.Device) == true))];
        _v = [.. parameters.Select(p => Moments(p.Tensor, momentsOnHost?.Invoke(p.Tensor.Device) == true))];
        foreach (var alike in Enumerable.Range(0, parameters.Count).GroupBy(i => (parameters[i].Tensor.Device, parameters[i].Tensor.Type,
            Rate: rateOf?.Invoke(parameters[i].Name) ?? 1, Decays: decays?.Invoke(parameters[i].Name) ?? true)))
        {
            int[] indices = [.. alike];
            var chunks = new Chunks([.. indices.Select(i => parameters[i].Tensor)]);
            _groups.Add(new Group(indices, alike.Key.Rate, alike.Key.Decays, chunks, alike.Key.Device.Kind == DeviceKind.Cuda
                ? new OptimizerKernels(chunks, [.. indices.Select(i => _m[i])], [.. indices.Select(i => _v[i])]) : null));
        }
    }

    /// <summary>Steps taken.</summary>
    public int Steps { get; private set; }

    /// <summary>Moments by name, for checkpoints.</summary>
    public IReadOnlyList<(string Name, Tensor Tensor)> State => [.. _parameters.SelectMany((p, i) => new[] { ("m." + p.Name, _m[i]), ("v." + p.Name, _v[i]) })];

    /// <summary>Takes over saved moments.</summary>
    /// <exception cref="InvalidDataException">Moments of another shape.</exception>
    public void Restore(int steps, Func<string, Tensor> find)
    {
        OptimizerState.Restore(State, find);
        Steps = steps;
    }

    /// <summary>One update with gradients times <paramref name="gradientScale"/> (clipping), then gradients are freed.</summary>
    public void Step(double learningRate, double gradientScale)
    {
        Nn.WeightVersion.Change();
        Steps++;
        foreach (var group in _groups)
        {
            var rate = learningRate * group.Rate;
            var factors = AdamWFactors.Of(_settings, Steps, rate, group.Decays ? _settings.WeightDecay : 0);
            if (group.Kernels is { } card)
                card.Step(group.Indices.Select(i => _parameters[i].Tensor.Grad), (float)gradientScale, factors, KeysOf(group));
            else if (group.MovesBehind) HostUpdate.Queue(UpdatesOf(group, (float)gradientScale, factors));
            else OnHost(group, PlacesOf(group), (float)gradientScale, factors, 0, group.Chunks.Count)();
        }
        OptimizerState.FreeGradients(_parameters);
    }

    /// <summary>Of <see cref="Stochastic"/> rounding in this step; null for F32.</summary>
    private int[]? KeysOf(Group group) => _parameters[group.Indices[0]].Tensor.Type != DType.BF16 ? null
        : [.. group.Indices.Select(i => (int)Stochastic.Key(_parameters[i].Name, Steps))];

    public void Dispose()
    {
        foreach (var group in _groups) group.Kernels?.Dispose();
        foreach (var tensor in _m.Concat(_v)) tensor.Dispose();
    }

    private static Tensor Moments(Tensor of, bool onHost)
    {
        if (of.OnDisk is { } disk) return disk.Memory.Zeros(DType.F32, of.Shape);
        if (!onHost || of.Device.Kind != DeviceKind.Cuda) return Tensor.Zeros(DType.F32, of.Device, of.Shape);
        var pinned = new Tensor(PinnedBuffer.Allocate(of.Device, of.Count * sizeof(float)), 0, DType.F32, of.Shape);
        Memory.Clear(pinned);
        return pinned;
    }

    /// <summary>Parameter by parameter, for what cards take from the host at a layer's turn: the next step waits for those that it wants to see.</summary>
    private List<HostUpdate> UpdatesOf(Group group, float scale, AdamWFactors factors)
    {
        var places = PlacesOf(group);
        List<HostUpdate> updates = [];
        for (var (at, first) = (0, 0); at < group.Indices.Length; first = group.Chunks.Ends[at++])
        {
            var i = group.Indices[at];
            var parameter = _parameters[i].Tensor;
            var next = at + 1 < group.Indices.Length ? group.Indices[at + 1] : i;
            Tensor?[] ahead = [_parameters[next].Tensor, _parameters[next].Tensor.Grad, _m[next], _v[next]];
            updates.Add(new HostUpdate([parameter, _m[i], _v[i]], parameter.Grad, OnHost(group, places, scale, factors, first, group.Chunks.Ends[at]), ahead));
            parameter.Grad = null; // the update's own from here on
        }
        return updates;
    }

    /// <summary>The addresses of all operands of a group; G 0: no gradient. Waits for updates under way.</summary>
    private (nint W, nint G, nint M, nint V)[] PlacesOf(Group group) => Array.ConvertAll(group.Indices, i =>
        (_parameters[i].Tensor.Pointer, _parameters[i].Tensor.Grad?.Pointer ?? 0, _m[i].Pointer, _v[i].Pointer));

    /// <summary>The update of chunks [first, last) of a group.</summary>
    private Action OnHost(Group group, (nint W, nint G, nint M, nint V)[] places, float scale, AdamWFactors factors, int first, int last)
    {
        var (isNarrow, step) = (_parameters[group.Indices[0]].Tensor.Type == DType.BF16, Steps);
        return () => RowParallel.For(last - first, Chunks.Size, (from, to) =>
        {
            var wide = isNarrow ? new float[Chunks.Size] : [];
            for (var chunk = first + (int)from; chunk < first + to; chunk++)
            {
                var (at, begin, length) = group.Chunks.At(chunk);
                var (w, g, m, v) = places[at];
                var gradient = g == 0 ? [] : Floats(g, begin, length);
                if (!isNarrow)
                {
                    Update(gradient, scale, Floats(w, begin, length), Floats(m, begin, length), Floats(v, begin, length), factors);
                    continue;
                }
                var narrow = Halves(w, begin, length);
                var values = wide.AsSpan(0, length);
                Bf16.Widen(narrow, values);
                Update(gradient, scale, values, Floats(m, begin, length), Floats(v, begin, length), factors);
                Stochastic.Narrow(values, narrow, Stochastic.Key(_parameters[group.Indices[at]].Name, step), begin);
            }
        });

        static unsafe Span<float> Floats(nint address, long from, int length) => new((float*)address + from, length);
        static unsafe Span<ushort> Halves(nint address, long from, int length) => new((ushort*)address + from, length);
    }

    /// <summary>One pass over a chunk; g empty: zeros. Eight elements at a time and the rest one by one, with the same operations.</summary>
    internal static void Update(ReadOnlySpan<float> g, float scale, Span<float> w, Span<float> m, Span<float> v, in AdamWFactors f)
    {
        ref float g0 = ref MemoryMarshal.GetReference(g), w0 = ref MemoryMarshal.GetReference(w), m0 = ref MemoryMarshal.GetReference(m),
            v0 = ref MemoryMarshal.GetReference(v);
        var (b1, b2, c1, c2) = (Vector256.Create(f.Beta1), Vector256.Create(f.Beta2), Vector256.Create(1 - f.Beta1), Vector256.Create(1 - f.Beta2));
        var (scales, rate, correction, eps, decay) = (Vector256.Create(scale), Vector256.Create(-f.Rate), Vector256.Create(f.Correction),
            Vector256.Create(f.Eps), Vector256.Create(f.Decay));
        var i = 0;
        for (; i <= w.Length - 8; i += 8)
        {
            var at = (nuint)i;
            var gradient = g.IsEmpty ? Vector256<float>.Zero : Vector256.LoadUnsafe(ref g0, at) * scales;
            var first = Vector256.FusedMultiplyAdd(Vector256.LoadUnsafe(ref m0, at), b1, gradient * c1);
            var second = Vector256.FusedMultiplyAdd(Vector256.LoadUnsafe(ref v0, at), b2, gradient * gradient * c2);
            first.StoreUnsafe(ref m0, at);
            second.StoreUnsafe(ref v0, at);
            Vector256.FusedMultiplyAdd(first / ((Vector256.Sqrt(second) / correction) + eps), rate, Vector256.LoadUnsafe(ref w0, at) * decay)
                .StoreUnsafe(ref w0, at);
        }
        for (; i < w.Length; i++)
        {
            var gradient = g.IsEmpty ? 0 : g[i] * scale;
            var first = m[i] = MathF.FusedMultiplyAdd(m[i], f.Beta1, gradient * (1 - f.Beta1));
            var second = v[i] = MathF.FusedMultiplyAdd(v[i], f.Beta2, gradient * gradient * (1 - f.Beta2));
            w[i] = MathF.FusedMultiplyAdd(first / ((MathF.Sqrt(second) / f.Correction) + f.Eps), -f.Rate, w[i] * f.Decay);
        }
    }

    /// <summary>The parameters of one device, type and rate that decay or do not, by their number; kernels where it is a card.</summary>
    private sealed record Group(int[] Indices, double Rate, bool Decays, Chunks Chunks, OptimizerKernels? Kernels)
    {
        /// <summary>All in memory that cards take a layer's share from at its turn: they need not wait for the rest.</summary>
        public bool MovesBehind { get; } = Chunks.Tensors.All(t => t.IsPinned || t.OnDisk is not null);
    }
}
