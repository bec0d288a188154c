using System.Text.RegularExpressions;

using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>
/// An adapter as llama.cpp's convert_lora_to_gguf.py writes it: `blk.N.attn_q_a.weight.lora_a` [r, in] and `.lora_b` [out, r]; routed experts stacked,
/// `blk.N.ffn_gate_exps.weight.lora_a` [E, r, in]. `adapter.lora.alpha` is one for all; the rank is each tensor's own. As in llama.cpp, alpha 0 means a
/// scale of 1.
/// </summary>
internal static partial class GgufAdapter
{
    private static readonly Dictionary<string, string> Modules = new()
    {
        ["attn_q"] = "self_attn.q_proj",
        ["attn_k"] = "self_attn.k_proj",
        ["attn_v"] = "self_attn.v_proj",
        ["attn_output"] = "self_attn.o_proj",
        ["attn_q_a"] = "self_attn.q_a_proj",
        ["attn_q_b"] = "self_attn.q_b_proj",
        ["attn_kv_a_mqa"] = "self_attn.kv_a_proj_with_mqa",
        ["attn_kv_b"] = "self_attn.kv_b_proj",
        ["ffn_gate"] = "mlp.gate_proj",
        ["ffn_up"] = "mlp.up_proj",
        ["ffn_down"] = "mlp.down_proj",
        ["ffn_gate_shexp"] = "mlp.shared_experts.gate_proj",
        ["ffn_up_shexp"] = "mlp.shared_experts.up_proj",
        ["ffn_down_shexp"] = "mlp.shared_experts.down_proj",
        ["ffn_gate_exps"] = "mlp.experts.{0}.gate_proj",
        ["ffn_up_exps"] = "mlp.experts.{0}.up_proj",
        ["ffn_down_exps"] = "mlp.experts.{0}.down_proj",
    };

    public static AdapterSource Open(string path)
    {
        var file = new GgufFile(path);
        try
        {
            if (file.TextOf("general.type") is { } type && type != "adapter")
                throw new InvalidDataException($"{path}: is a GGUF file of type '{type}'; expected is an adapter");
            if (file.TextOf("adapter.type") is { } kind && kind != "lora")
                throw new InvalidDataException($"{path}: adapter.type '{kind}' is not supported; only lora is");
            if (file.Has("adapter.alora.invocation_tokens"))
                throw new InvalidDataException($"{path}: has 'adapter.alora.invocation_tokens', which is not supported: the adapter acts only from " +
                    "these tokens on (aLoRA); use it with llama.cpp");
            var tensors = new Dictionary<string, AdapterTensor>();
            var ranks = new Dictionary<string, int>(); // by pattern: a module's path, or all experts of a projection
            foreach (var entry in file.Entries.Values)
            {
                var match = Name().Match(entry.Name);
                if (!match.Success)
                    throw new InvalidDataException($"{path}: tensor '{entry.Name}' is not named as llama.cpp names halves of pairs, blk.N.NAME.weight.lora_a");
                var module = ModuleOf(match)
                    ?? throw new InvalidDataException($"{path}: tensor '{entry.Name}' belongs to '{match.Groups[2].Value}', which has no pair here; known are "
                    + $"output, {string.Join(", ", Modules.Keys)}");
                var stacked = module.Contains("{0}", StringComparison.Ordinal);
                if (entry.Shape.Length != (stacked ? 3 : 2))
                    throw new InvalidDataException($"{path}: tensor '{entry.Name}' must have "
                        + $"{(stacked ? "3 dimensions, experts first" : "2 dimensions")}, but is [{string.Join(", ", entry.Shape)}]");
                if (stacked && entry.Shape[0] > FusedExperts.MostExperts)
                    throw new InvalidDataException($"{path}: tensor '{entry.Name}' has {entry.Shape[0]:N0} experts; {FusedExperts.MostExperts:N0} are " +
                        "the most");
                if (entry.Shape[^2] * entry.Shape[^1] > int.MaxValue)
                    throw new InvalidDataException($"{path}: tensor '{entry.Name}' is [{string.Join(", ", entry.Shape)}], which is too large for half a pair");
                var half = match.Groups[3].Value == "a" ? "A" : "B";
                if (half == "A")
                    ranks[stacked ? Regex.Escape(module).Replace(@"\{0}", @"\d+", StringComparison.Ordinal) : Regex.Escape(module)] = (int)entry.Shape[^2];
                Add(file, entry, module, half, stacked, tensors);
            }
            return new AdapterSource(path, SettingsOf(file, ranks), tensors, [file]);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static string? ModuleOf(Match match) => match.Groups[2].Value == "output" && match.Groups[1].Length == 0 ? "lm_head"
        : match.Groups[1].Length > 0 && Modules.TryGetValue(match.Groups[2].Value, out var module) ? $"model.layers.{match.Groups[1].Value}.{module}" : null;

    private static void Add(GgufFile file, GgufEntry entry, string module, string half, bool stacked, Dictionary<string, AdapterTensor> tensors)
    {
        var shape = entry.Shape[^2..];
        var count = (int)(shape[0] * shape[1]);
        for (var e = 0; e < (stacked ? entry.Shape[0] : 1); e++)
        {
            var first = (long)e * count;
            var name = $"{AdapterTensors.Prefix}{string.Format(System.Globalization.CultureInfo.InvariantCulture, module, e)}.lora_{half}.weight";
            var source = stacked ? $"{entry.Name}[{e}]" : entry.Name;
            var tensor = new AdapterTensor(file.Path, source, GgufFile.TypeName(entry.Type), shape, () => file.Read(entry.Name, first, count));
            if (!tensors.TryAdd(name, tensor))
                throw new InvalidDataException($"{file.Path}: tensors '{tensors[name].Source}' and '{tensor.Source}' are halves of the same pair");
        }
    }

    /// <summary>The most common rank is r, the others are patterns.</summary>
    private static LoraSettings SettingsOf(GgufFile file, Dictionary<string, int> ranks)
    {
        if (ranks.Count == 0) throw new InvalidDataException($"{file.Path}: holds no tensor ….lora_a of an adapter");
        if (file.Number("adapter.lora.alpha") is not { } alpha)
            throw new InvalidDataException($"{file.Path}: 'adapter.lora.alpha' is {(file.Has("adapter.lora.alpha") ? "no number" : "missing")}");
        var rank = ranks.Values.GroupBy(r => r).MaxBy(g => g.Count())!.Key;
        var others = ranks.Where(r => r.Value != rank).ToDictionary(r => r.Key, r => r.Value);
        // Alpha 0 is a scale of 1: alpha is the rank then, of each module.
        var settings = new LoraSettings(rank, alpha == 0 ? rank : alpha, RankPattern: others.Count == 0 ? null : others,
            AlphaPattern: others.Count > 0 && alpha == 0 ? others.ToDictionary(r => r.Key, r => (double)r.Value) : null);
        try
        {
            return settings.Checked();
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"{file.Path}: {error.Message}");
        }
    }

    [GeneratedRegex(@"^(?:blk\.([0-9]{1,6})\.)?(\w+)\.weight\.lora_(a|b)\z")]
    private static partial Regex Name();
}
