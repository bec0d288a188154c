using KtNotebooks.Configuration;
using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>Where the keys want what training adds to a model: on the card, in pinned host memory, or (null) where there is room.</summary>
/// <param name="ExpertLoraOnHost">`expert_lora`: the pairs of routed experts, with their gradients and moments.</param>
/// <param name="OptimizerOnHost">`optimizer_state`: the moments of everything else.</param>
/// <param name="SavedBytes">`saved_inputs_mb`: inputs of layers that stay on a card between forward and backward; those beyond go to the host.</param>
public sealed record TrainingMemoryKeys(bool? ExpertLoraOnHost = null, bool? OptimizerOnHost = null, long? SavedBytes = null)
{
    public static TrainingMemoryKeys Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        bool? OnHost(string key) => c.OneOf(key, "auto", "auto", "card", "host") switch { "card" => false, "host" => true, _ => null };
        var saved = c.Int("saved_inputs_mb", -1);
        if (saved < -1) throw c.Wrong("saved_inputs_mb", "0 or more MiB, or -1 for a choice by what is free");
        return new TrainingMemoryKeys(OnHost("expert_lora"), OnHost("optimizer_state"), saved < 0 ? null : (long)saved << 20);
    }
}

/// <summary>
/// Decides, after the weights and before the adapter are there, what of an adapter lies on a card: 4 bytes an element, 4 of its gradient, 8 of its moments. The moments leave first, then the pairs of the experts
/// (DeepSeek-V3 at rank 8: 3.3 billion elements, 52 GB; a layer's 0.2 GB cross the bus at a visit, beside 11 GB of experts), and the inputs of layers get a share of what is left.
/// </summary>
/// <param name="OptimizerOnHost">Moments of parameters on cards wait in pinned host memory.</param>
/// <param name="SavedBytes">For the inputs of layers on each card.</param>
/// <param name="Notes">What a person should know.</param>
internal sealed record TrainingMemory(bool OptimizerOnHost, long SavedBytes, IReadOnlyList<string> Notes)
{
    /// <summary>Shares of what a card still gives: for the adapter, and of the rest for inputs of layers. Activations of a chunk need what is left.</summary>
    private const double AdapterShare = 0.4, SavedShare = 0.3;

    private const int OnCardBytes = 8, MomentBytes = 8;

    /// <summary>Sets the banks' <see cref="ExpertBank.PairsOnHost"/>.</summary>
    /// <param name="tokens">Of a window.</param>
    public static TrainingMemory Choose(CausalLm model, LoraSettings lora, TrainingMemoryKeys keys, long tokens)
    {
        var cards = model.All().Where(m => m.Device.Kind == DeviceKind.Cuda).Select(m => m.Device).Distinct().OrderBy(d => d.Index).ToList();
        if (cards.Count == 0) return new TrainingMemory(false, long.MaxValue, []);
        List<string> notes = [];
        var (optimizer, saved) = (false, long.MaxValue);
        foreach (var device in cards)
        {
            var card = CudaDevice.Get(device.Index);
            var room = (double)Math.Min(card.FreeBytes, card.Pool.Limit - card.Pool.UsedBytes);
            var dense = model.All().OfType<Linear>().Where(l => l.Weight.Device == device && LoraAdapter.IsTarget(l.Path, lora.Targets)).Sum(l => (double)lora.RankOf(l.Path) * (l.Inputs + l.Outputs));
            ExpertBank[] banks = lora.Experts ? [.. model.All().OfType<ExpertBank>().Where(b => b.Device == device)] : [];
            var pairs = banks.Sum(b => Elements(b, lora));
            var allowed = AdapterShare * room;
            var pairsOnHost = keys.ExpertLoraOnHost ?? ((dense + pairs) * OnCardBytes > allowed || banks.Any(b => b.CpuTakesPart(tokens)));
            foreach (var bank in banks) bank.PairsOnHost = pairsOnHost;
            var here = dense + (pairsOnHost ? 0 : pairs);
            var moments = keys.OptimizerOnHost ?? here * (OnCardBytes + MomentBytes) > allowed;
            optimizer |= moments;
            var inputs = (long)Math.Max(0, SavedShare * (room - (here * (moments ? OnCardBytes : OnCardBytes + MomentBytes))));
            saved = Math.Min(saved, inputs);
            if (pairs > 0 && pairsOnHost) notes.Add($"{device}: the experts' LoRA ({pairs / 1e6:F1} M elements, {pairs * (OnCardBytes + MomentBytes) / 1e9:F2} GB with gradients and moments) lives in host memory and is updated there");
            if (moments) notes.Add($"{device}: AdamW's moments of {here / 1e6:F1} M elements wait in pinned host memory");
        }
        return new TrainingMemory(optimizer, keys.SavedBytes ?? saved, notes);
    }

    private static double Elements(ExpertBank bank, LoraSettings lora)
    {
        var ((gate, up, down), _) = LoraAdapter.RanksOf(bank, lora);
        return (double)bank.Count * (gate + up + down) * (bank.Width + bank.Inner);
    }
}
