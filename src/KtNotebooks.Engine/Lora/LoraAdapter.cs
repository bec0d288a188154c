using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

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
        if (settings.Targets is { } targets) RequireKnown(model, targets);
        List<IAdaptable> modules = [.. Adapted(model, settings)];
        if (settings.FirstUnused([.. modules.SelectMany(m => m.Targets).SelectMany(t => Enumerable.Range(0, t.Count).Select(t.PathOf))]) is { } unused)
            throw new ArgumentException($"rank_pattern or alpha_pattern names '{unused}', which is the end of no path that gets a pair; as q_proj, or "
                + "layers.0.self_attn.q_proj");
        if (settings.Additional is { } names) RequireApart(model, settings, names);
        RankLimit.Require(modules, settings, "lora_rank");
        RankLimit.RequireRoom(modules, settings);
        foreach (var module in modules) module.Adapter = Fresh(module, settings, seed);
        WholeModules.Unfreeze(model, settings);
        return modules.Sum(m => m.Targets.Sum(t => t.Count));
    }

    /// <summary>Takes all pairs off again and frees them.</summary>
    public static void Detach(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        foreach (var module in model.All().OfType<IAdaptable>()) module.Adapter = null;
    }

    /// <summary>The modules that get pairs, in model order; none that is trained whole, as in PEFT.</summary>
    internal static IEnumerable<IAdaptable> Adapted(CausalLm model, LoraSettings settings) => model.All().OfType<IAdaptable>()
        .Where(m => m.IsExperts ? settings.Experts : IsTarget(m.Path, settings.Targets) && !WholeModules.Covers(settings.Additional, m.Path));

    /// <summary>A module has a pair or is trained whole: each lora_target has one of its own, and no pair lies on a tied head whose table is trained.</summary>
    private static void RequireApart(CausalLm model, LoraSettings settings, IReadOnlyList<string> names)
    {
        var weights = WholeModules.WeightsOf(model, names).ToHashSet();
        var adapted = Adapted(model, settings).ToList();
        var tied = WholeModules.IsTied(model) && weights.Contains(model.Embedding.Path + ".weight") && adapted.Contains(model.Head) ? model.Head.Path : null;
        if ((tied ?? settings.Targets?.FirstOrDefault(t => !adapted.Exists(m => IsTarget(m.Path, [t])))) is { } both)
            throw new ArgumentException($"additional_target and lora_target both name {both}; a module is trained whole, or has a pair");
        if (adapted.Count == 0)
            throw new ArgumentException("additional_target trains all that lora_target names whole, and no pair is left; give finetuning_type: freeze");
    }

    /// <summary>Elements of all pairs of a module.</summary>
    internal static long Elements(IAdaptable module, LoraSettings settings) =>
        module.Targets.Zip(RanksOf(module, settings).Ranks, (t, rank) => (long)t.Count * rank * (t.Inputs + t.Outputs)).Sum();

    private static bool IsTarget(string path, IReadOnlyList<string>? targets)
    {
        var last = path[(path.LastIndexOf('.') + 1)..];
        return targets is null ? !NeverTargets.Contains(last) : targets.Any(t => path == t || path.EndsWith("." + t, StringComparison.Ordinal));
    }

    private static void RequireKnown(CausalLm model, IReadOnlyList<string> targets)
    {
        var paths = model.All().OfType<IAdaptable>().Where(m => !m.IsExperts).Select(m => m.Path).ToList();
        foreach (var target in targets)
            if (!paths.Any(p => p == target || p.EndsWith("." + target, StringComparison.Ordinal)))
            {
                var known = paths.Select(p => p[(p.LastIndexOf('.') + 1)..]).Distinct().Order(StringComparer.Ordinal);
                throw new ArgumentException($"lora_target '{target}' is no linear layer of this model; known are all, {string.Join(", ", known)}");
            }
    }

    /// <summary>Rank of each target's pairs, and their scale: the experts of a layer are multiplied together, so they need one of each.</summary>
    /// <exception cref="ArgumentException">The patterns give experts of one layer different ranks or scales.</exception>
    internal static (int[] Ranks, float Scale) RanksOf(IAdaptable module, LoraSettings s)
    {
        var targets = module.Targets;
        var ranks = new int[targets.Count];
        if (s.RankPattern is null && s.AlphaPattern is null)
        {
            Array.Fill(ranks, s.Rank);
            return (ranks, s.Scale);
        }
        var scale = s.ScaleOf(targets[0].PathOf(0));
        for (var t = 0; t < ranks.Length; t++)
            for (var e = 0; e < targets[t].Count; e++)
            {
                var path = targets[t].PathOf(e);
                var rank = s.RankOf(path);
                if (e > 0 && rank != ranks[t])
                    throw new ArgumentException($"rank_pattern gives {path} the rank {rank}, but expert 0 of its layer {ranks[t]}; the experts of a layer "
                        + "need one rank a projection");
                if (s.ScaleOf(path) != scale)
                    throw new ArgumentException($"rank_pattern and alpha_pattern scale {path} by {s.ScaleOf(path)}, but others of its layer "
                        + $"by {scale}; the experts of a layer need one scale");
                ranks[t] = rank;
            }
        return (ranks, scale);
    }

    private static LoraWeights Fresh(IAdaptable module, LoraSettings s, ulong seed)
    {
        var (ranks, scale) = RanksOf(module, s);
        if (s.Pissa is { } rounds && module is Linear linear) return PrincipalPair.Of(linear, ranks[0], scale, (float)s.Dropout, rounds, seed);
        var fresh = Plain(module, s, seed, ranks, scale);
        return s.Dora && module is Linear dense ? ((LinearLora)fresh) with { Dora = Dora.Fresh(dense.Weight) } : fresh;
    }

    private static LoraWeights Plain(IAdaptable module, LoraSettings s, ulong seed, int[] ranks, float scale)
    {
        return module.MakeAdapter([.. module.Targets.Zip(ranks, (t, r) => (RandomA(seed, t.Name, module.EmptyLora(t.Shape(r, t.Inputs))),
            Zeros(module.EmptyLora(t.Shape(t.Outputs, r)))))], scale, (float)s.Dropout);
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
