using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// Low-rank pairs for the linears of a model, put beside them from outside: models do not know of adapters. A starts uniform in ±1/√in (PEFT's Kaiming form with a = √5), B at zero, so that a fresh
/// adapter changes nothing. A pair lives where its weight lives.
/// </summary>
public static class LoraAdapter
{
    private static readonly string[] NeverTargets = ["lm_head", "gate"]; // the head, and the router under its checkpoint name

    /// <summary>Attaches fresh pairs. Returns how many linears got one, an expert's projection counting as one.</summary>
    /// <exception cref="ArgumentException">A target that no linear of the model has.</exception>
    public static int Attach(CausalLm model, LoraSettings settings, ulong seed = 42)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        settings.Checked();
        var targets = settings.Target is not { } named || named.Contains("all") ? null : named;
        if (targets is not null) RequireKnown(model, targets);
        var attached = 0;
        foreach (var module in model.All())
        {
            if (module is Nn.Linear linear && IsTarget(linear.Path, targets))
            {
                linear.Adapter?.Dispose();
                linear.Adapter = Fresh(linear, settings, seed);
                attached++;
            }
            if (module is ExpertBank bank && settings.Experts)
            {
                bank.Adapter = Fresh(bank, settings, seed);
                attached += 3 * bank.Count;
            }
        }
        return attached;
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
                var known = paths.Select(p => p[(p.LastIndexOf('.') + 1)..]).Distinct().Order();
                throw new ArgumentException($"lora_target '{target}' is no linear layer of this model; known are all, {string.Join(", ", known)}");
            }
    }

    private static LowRank Fresh(Nn.Linear linear, LoraSettings s, ulong seed)
    {
        var device = linear.Weight.Device;
        return new LowRank(RandomA(seed, linear.Path, device, s.Rank, linear.Inputs), Zeros(device, linear.Outputs, s.Rank), s.Scale, (float)s.Dropout);
    }

    private static LowRankExperts Fresh(ExpertBank bank, LoraSettings s, ulong seed)
    {
        var device = bank.Device;
        Tensor A(string name, int inputs) => RandomA(seed, $"{bank.Path}.{name}", device, bank.Count, s.Rank, inputs);
        Tensor B(int outputs) => Zeros(device, bank.Count, outputs, s.Rank);
        return new LowRankExperts(A("gate_proj", bank.Width), B(bank.Inner), A("up_proj", bank.Width), B(bank.Inner), A("down_proj", bank.Inner), B(bank.Width), s.Scale, (float)s.Dropout);
    }

    private static Tensor RandomA(ulong seed, string name, Device device, params ReadOnlySpan<long> shape)
    {
        var random = new NormalRandom(seed, name);
        using var values = Tensor.Empty(DType.F32, shape);
        var bound = 1 / Math.Sqrt(values.Width);
        foreach (ref var value in values.Span<float>()) value = (float)(((2 * random.Uniform()) - 1) * bound);
        return Trained(values.To(device));
    }

    private static Tensor Zeros(Device device, params ReadOnlySpan<long> shape) => Trained(Tensor.Zeros(DType.F32, device, shape));

    private static Tensor Trained(Tensor tensor)
    {
        tensor.RequiresGrad = true;
        return tensor;
    }
}
