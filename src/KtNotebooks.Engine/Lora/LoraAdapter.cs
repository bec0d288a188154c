using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>
/// Low-rank pairs for the linears of a model, put beside them from outside: models do not know of adapters. A starts uniform in ±1/√in (PEFT's Kaiming form
/// with a = √5), B at zero, so that a fresh adapter changes nothing. A pair lives where its weight lives.
/// </summary>
public static class LoraAdapter
{
    private static readonly string[] NeverTargets = ["lm_head", "gate", "router"]; // the head, and the router under its checkpoint names

    /// <summary>Attaches fresh pairs. Returns how many linears got one, an expert's projection counting as one.</summary>
    /// <exception cref="ArgumentException">A target that no linear of the model has, or a rank beyond all of them.</exception>
    public static int Attach(CausalLm model, LoraSettings settings, ulong seed = 42)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        settings.Checked();
        var targets = settings.Targets;
        if (targets is not null) RequireKnown(model, targets);
        List<Nn.Linear> linears = [.. model.All().OfType<Nn.Linear>().Where(l => IsTarget(l.Path, targets))];
        List<ExpertBank> banks = settings.Experts ? [.. model.All().OfType<ExpertBank>()] : [];
        RankLimit.Require(linears, banks, settings, "lora_rank");
        RankLimit.RequireRoom(linears, banks, settings);
        foreach (var linear in linears)
        {
            linear.Adapter?.Dispose();
            linear.Adapter = Fresh(linear, settings, seed);
        }
        foreach (var bank in banks) bank.Adapter = Fresh(bank, settings, seed);
        return linears.Count + banks.Sum(b => 3 * b.Count);
    }

    /// <summary>Takes all pairs off again and frees them.</summary>
    public static void Detach(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        foreach (var module in model.All())
        {
            if (module is Nn.Linear { Adapter: { } pair } linear)
            {
                pair.Dispose();
                linear.Adapter = null;
            }
            if (module is ExpertBank { Adapter: not null } bank) bank.RemoveAdapter();
        }
    }

    internal static bool IsTarget(string path, IReadOnlyList<string>? targets)
    {
        var last = path[(path.LastIndexOf('.') + 1)..];
        return targets is null ? !NeverTargets.Contains(last) : targets.Any(t => path == t || path.EndsWith("." + t, StringComparison.Ordinal));
    }

    private static void RequireKnown(CausalLm model, IReadOnlyList<string> targets)
    {
        var paths = model.All().OfType<Nn.Linear>().Select(l => l.Path).ToList();
        foreach (var target in targets)
            if (!paths.Any(p => p == target || p.EndsWith("." + target, StringComparison.Ordinal)))
            {
                var known = paths.Select(p => p[(p.LastIndexOf('.') + 1)..]).Distinct().Order(StringComparer.Ordinal);
                throw new ArgumentException($"lora_target '{target}' is no linear layer of this model; known are all, {string.Join(", ", known)}");
            }
    }

    /// <summary>Rank of each projection of a bank, and their scale: the experts of a layer are multiplied together, so they need one of each.</summary>
    /// <exception cref="ArgumentException">The patterns give experts of one layer different ranks or scales.</exception>
    internal static ((int Gate, int Up, int Down) Rank, float Scale) RanksOf(ExpertBank bank, LoraSettings s)
    {
        if (s.RankPattern is null && s.AlphaPattern is null) return ((s.Rank, s.Rank, s.Rank), s.Scale);
        var ranks = new int[bank.Names.All.Count];
        var scale = s.ScaleOf(bank.Names.Gate.Module(0));
        for (var p = 0; p < ranks.Length; p++)
            for (var e = 0; e < bank.Count; e++)
            {
                var path = bank.Names.All[p].Module(e);
                var rank = s.RankOf(path);
                if (e > 0 && rank != ranks[p])
                    throw new ArgumentException($"rank_pattern gives {path} the rank {rank}, but expert 0 of its layer {ranks[p]}; the experts of a layer "
                        + "need one rank a projection");
                if (s.ScaleOf(path) != scale)
                    throw new ArgumentException($"rank_pattern and alpha_pattern scale {path} by {s.ScaleOf(path)}, but others of its layer "
                        + $"by {scale}; the experts of a layer need one scale");
                ranks[p] = rank;
            }
        return ((ranks[0], ranks[1], ranks[2]), scale);
    }

    private static LinearLora Fresh(Nn.Linear linear, LoraSettings s, ulong seed)
    {
        var (r, device) = (s.RankOf(linear.Path), linear.Weight.Device);
        return new LinearLora(RandomA(seed, linear.Path, Tensor.Empty(DType.F32, device, r, linear.Inputs)),
            Zeros(Tensor.Empty(DType.F32, device, linear.Outputs, r)), s.ScaleOf(linear.Path), (float)s.Dropout);
    }

    private static ExpertLora Fresh(ExpertBank bank, LoraSettings s, ulong seed)
    {
        var ((gate, up, down), scale) = RanksOf(bank, s);
        Tensor A(ExpertProjection name, int rank, int inputs) => RandomA(seed, $"{name.Path}.{name.Name}", bank.EmptyLora(bank.Count, rank, inputs));
        Tensor B(int outputs, int rank) => Zeros(bank.EmptyLora(bank.Count, outputs, rank));
        return new ExpertLora(A(bank.Names.Gate, gate, bank.Width), B(bank.Inner, gate), A(bank.Names.Up, up, bank.Width), B(bank.Inner, up),
            A(bank.Names.Down, down, bank.Inner), B(bank.Width, down), scale, (float)s.Dropout);
    }

    private static Tensor RandomA(ulong seed, string name, Tensor target)
    {
        if (target.Device.Kind == DeviceKind.Meta) return Trained(target); // of a model of shapes
        var random = new NormalRandom(seed, name);
        using var values = target.Device.Kind == DeviceKind.Cpu ? target.Alias() : Tensor.Empty(DType.F32, target.Shape);
        var bound = 1 / Math.Sqrt(values.Width);
        foreach (ref var value in values.Span<float>()) value = (float)(((2 * random.Uniform()) - 1) * bound);
        if (target.Device.Kind != DeviceKind.Cpu) Memory.Copy(values, target);
        return Trained(target);
    }

    private static Tensor Zeros(Tensor target)
    {
        Memory.Clear(target);
        return Trained(target);
    }

    private static Tensor Trained(Tensor tensor)
    {
        tensor.RequiresGrad = true;
        return tensor;
    }
}
