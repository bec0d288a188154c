using System.Text.RegularExpressions;

using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// additional_target, PEFT's modules_to_save: modules that are trained whole beside the pairs. Here their weights are the model's own, changed where they lie;
/// an adapter's file holds them under `base_model.model.{weight}`, and they take the base's place when it is loaded or merged. A tied head is the token table:
/// either name trains both, and both are written, so that PEFT, which keeps two modules, computes the same.
/// </summary>
public static partial class WholeModules
{
    private const string Table = "model.embed_tokens", Head = "lm_head", Suffix = ".weight";

    /// <summary>The names of their weights, in model order.</summary>
    /// <param name="model">Loaded, or of shapes.</param>
    /// <param name="names">Ends of paths, as PEFT compares them: lm_head, layers.3.mlp.gate; norm is the last norm and every layernorm too. A module that has
    /// others in it means all of them.</param>
    /// <exception cref="ArgumentException">A module that is not there, or that cannot be trained so.</exception>
    public static IReadOnlyList<string> WeightsOf(CausalLm model, IReadOnlyList<string> names)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(names);
        HashSet<string> all = [];
        foreach (var name in names)
        {
            Module[] found = [.. model.All().Where(m => m.Path.Length > 0 && Covers(name, m.Path))];
            if (Array.Find(found, m => m is ExpertBank) is { } bank)
                throw new ArgumentException($"additional_target '{name}' has routed experts in it ({bank.Path}), which are not stored in an adapter whole; "
                    + "lora_experts: true gives them pairs, finetuning_type: freeze trains them themselves");
            string[] weights = [.. found.Where(m => m.CanLearn).SelectMany(m => m.Weights).Select(w => w.Name)];
            if (IsTied(model) && Covers(name, Head)) weights = [.. weights, Table + Suffix];
            if (weights.Length == 0)
                throw new ArgumentException(found.Length > 0 ? $"additional_target '{name}' has no weight that a loss has a gradient of"
                    : $"additional_target '{name}' is the end of no module's path in this model; known are {string.Join(", ", Known(model))}");
            all.UnionWith(weights);
        }
        return [.. model.AllWeights.Select(w => w.Name).Where(all.Contains)];
    }

    /// <summary>What a person should know of them before a run.</summary>
    internal static string Describe(CausalLm model, Func<string, bool> trains)
    {
        var weights = model.AllWeights.Where(w => trains(w.Name)).ToArray();
        return $"additional_target: {weights.Sum(w => w.Count):N0} of the model's own weights are trained whole and stored with the pairs "
            + $"({string.Join(", ", weights.Select(w => w.Name[..w.Name.LastIndexOf('.')].Split('.')[^1]).Distinct())})";
    }

    /// <summary>Sets them to train.</summary>
    internal static void Unfreeze(CausalLm model, LoraSettings settings)
    {
        if (settings.Additional is not { } names) return;
        var weights = WeightsOf(model, names).ToHashSet();
        foreach (var (name, tensor) in model.AllWeights)
            if (weights.Contains(name)) tensor.RequiresGrad = true;
    }

    /// <summary>A module is one of these, or in one.</summary>
    internal static bool Covers(IReadOnlyList<string>? names, string path) => names?.Any(name => Covers(name, path)) == true;

    /// <summary>The weights as they are, by the names under which they are stored; views that the caller disposes.</summary>
    internal static IReadOnlyList<(string Name, Tensor Tensor)> Of(CausalLm model, IReadOnlyList<string>? names)
    {
        if (names is null) return [];
        var weights = WeightsOf(model, names).ToHashSet();
        List<(string, Tensor)> all = [.. model.AllWeights.Where(w => weights.Contains(w.Name)).Select(w => (w.Name, w.Tensor.Alias()))];
        if (IsTied(model) && weights.Contains(Table + Suffix)) all.Add((Head + Suffix, model.Embedding.Weight.Alias()));
        return all;
    }

    /// <summary>modules_to_save of what is written.</summary>
    internal static IReadOnlyList<string>? Written(CausalLm model, IReadOnlyList<string>? names)
    {
        if (names is null || !IsTied(model) || !(Covers(names, Head) || Covers(names, Table))) return names;
        return [.. names, .. ((string[])[Table, Head]).Where(m => !Covers(names, m)).Select(m => m.Split('.')[^1])];
    }

    internal static bool IsTied(CausalLm model) => ReferenceEquals(model.Head.Weight, model.Embedding.Weight);

    /// <summary>The name of a model's weight that a stored tensor is, where its module is one of these; null: it is none.</summary>
    internal static string? WeightName(string stored, IReadOnlyList<string>? names)
    {
        if (names is null || stored.Contains(".lora_", StringComparison.Ordinal) || Whole().Match(stored) is not { Success: true } match) return null;
        var path = AdapterNames.Path(match.Groups["path"].Value);
        return Covers(names, path) ? $"{path}.{match.Groups["tensor"].Value}" : null;
    }

    /// <summary>Stored modules by the weights of a base whose place they take.</summary>
    /// <param name="source">The adapter.</param>
    /// <param name="tied">The base's head is its token table.</param>
    /// <exception cref="InvalidDataException">The base ties what the adapter has apart.</exception>
    internal static IReadOnlyDictionary<string, AdapterTensor> Of(AdapterSource source, bool tied)
    {
        var (table, head) = (source.Modules.GetValueOrDefault(Table + Suffix), source.Modules.GetValueOrDefault(Head + Suffix));
        if (!tied || (table ?? head) is not { } one) return source.Modules;
        if (table is null || head is null ? !source.TiesWeights : !table.Read().AsSpan().SequenceEqual(head.Read()))
            throw new InvalidDataException($"{source.Path}: '{one.Source}' is a whole module (modules_to_save), and the base's head is its token table "
                + $"(tie_word_embeddings), but the adapter {(table is null || head is null ? "has one of the two alone" : "has two that differ")}; merge "
                + "it with PEFT (merge_and_unload) and load the result as a model");
        return source.Modules.Where(m => m.Key != Head + Suffix).Append(KeyValuePair.Create(Table + Suffix, one)).DistinctBy(m => m.Key).ToDictionary();
    }

    /// <summary>Puts stored modules in the place of a model's.</summary>
    /// <exception cref="InvalidDataException">One fits nothing, or the model's lies in a mapped file.</exception>
    internal static void Put(CausalLm model, AdapterSource source, Action<string>? log = null)
    {
        var modules = Of(source, IsTied(model));
        if (modules.Count == 0) return;
        var weights = model.AllWeights.Where(w => modules.ContainsKey(w.Name)).ToDictionary(w => w.Name, w => w.Tensor);
        foreach (var (name, stored) in modules)
        {
            if (!weights.TryGetValue(name, out var target))
                throw new InvalidDataException($"{source.Path}: tensor '{stored.Source}' is of a whole module (modules_to_save) that this model does not have");
            if (!stored.IsReadable || !stored.Shape.SequenceEqual(target.Shape.ToArray()))
                throw new InvalidDataException($"{source.Path}: tensor '{stored.Source}' must be [{string.Join(", ", target.Shape.ToArray())}] for this base, "
                    + $"but is {stored}");
            if (target.IsMapped)
                throw new InvalidDataException($"{source.Path}: '{stored.Source}' is a whole module (modules_to_save), but the model's lies in its "
                    + "mapped file; load the model with the adapter by its key (adapter_name_or_path), or merge it with kt export");
        }
        foreach (var (name, stored) in modules)
        {
            using var host = MergedTensor.Round(stored.Read(), weights[name].Type, weights[name].Shape);
            Memory.Copy(host, weights[name]);
            log?.Invoke($"Loaded adapter weight: {stored.Source} -> {name}");
        }
        WeightVersion.Change();
    }

    private static bool Covers(string name, string path)
    {
        for (var end = path.Length; end > 0; end = path.LastIndexOf('.', end - 1))
            if (path.AsSpan(0, end).EndsWith(name, StringComparison.Ordinal)) return true;
        return false;
    }

    private static IEnumerable<string> Known(CausalLm model) => model.All().Where(m => m.CanLearn && m is not ExpertBank && m.Weights.Any())
        .Select(m => m.Path.Split('.')[^1]).Concat(IsTied(model) ? [Head] : []).Distinct().Order(StringComparer.Ordinal);

    [GeneratedRegex(@"\A(?<path>.+?)(?:\.modules_to_save(?:\.[^.]+)?)?\.(?<tensor>weight|bias|e_score_correction_bias)\z")]
    private static partial Regex Whole();
}
