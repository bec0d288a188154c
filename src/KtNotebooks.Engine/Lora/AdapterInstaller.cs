using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// Puts stored pairs beside a model's linears and experts: as the adapter that trains, or frozen under a name. All or nothing: a tensor that is missing, does not fit or is left over leaves the model as it was.
/// </summary>
internal sealed class AdapterInstaller
{
    private readonly string _path;
    private readonly LoraSettings _settings;
    private readonly IReadOnlyDictionary<string, AdapterTensor> _tensors;
    private readonly HashSet<string> _left;
    private readonly bool _trained;
    private readonly Action<string>? _log;
    private readonly List<Tensor> _made = [];

    private AdapterInstaller(string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, bool trained, Action<string>? log)
    {
        (_path, _settings, _tensors, _trained, _log) = (path, settings, tensors, trained, log);
        _left = [.. tensors.Keys];
    }

    /// <param name="model">The base.</param>
    /// <param name="path">The file that messages name.</param>
    /// <param name="settings">Ranks and scales.</param>
    /// <param name="tensors">By PEFT's names.</param>
    /// <param name="name">Null: replaces the adapter that trains.</param>
    /// <param name="log">Hears `Loaded adapter weight: A -> B` for every tensor.</param>
    public static void Put(CausalLm model, string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, string? name = null, Action<string>? log = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        new AdapterInstaller(path, settings, tensors, name is null, log).Run(model, name);
    }

    private void Run(CausalLm model, string? name)
    {
        List<(Nn.Linear Linear, LowRank Pair)> linears = [];
        List<(ExpertBank Bank, LowRankExperts Pairs)> banks = [];
        var paths = _tensors.Keys.Select(ModulePath).ToHashSet();
        try
        {
            foreach (var module in model.All())
            {
                if (module is Nn.Linear linear && paths.Contains(linear.Path)) linears.Add((linear, PairOf(linear)));
                if (module is ExpertBank bank && paths.Any(p => p.StartsWith(bank.Path + ".", StringComparison.Ordinal))) banks.Add((bank, PairsOf(bank)));
            }
            if (linears.Count == 0 && banks.Count == 0) throw new InvalidDataException($"{_path}: none of its {_tensors.Count} tensors fits this model; the first is '{_tensors.Keys.Order(StringComparer.Ordinal).FirstOrDefault()}'. It belongs to another architecture");
            if (_left.Count > 0) throw new InvalidDataException($"{_path}: tensor '{_left.Order(StringComparer.Ordinal).First()}' fits no linear layer of this model ({_left.Count} such)");
        }
        catch
        {
            foreach (var tensor in _made) tensor.Dispose();
            throw;
        }
        if (name is null)
        {
            LoraAdapter.Detach(model);
            foreach (var (linear, pair) in linears) linear.Adapter = pair;
            foreach (var (bank, pairs) in banks) bank.Adapter = pairs;
            return;
        }
        NamedAdapters.Remove(model, name);
        foreach (var (linear, pair) in linears) linear.Named.Add(name, pair);
        foreach (var (bank, pairs) in banks) bank.Named.Add(name, pairs);
    }

    private static string ModulePath(string name)
    {
        var end = name.LastIndexOf(".lora_", StringComparison.Ordinal);
        return name.StartsWith(AdapterTensors.Prefix, StringComparison.Ordinal) && end > AdapterTensors.Prefix.Length ? name[AdapterTensors.Prefix.Length..end] : "";
    }

    private LowRank PairOf(Nn.Linear linear)
    {
        var r = _settings.RankOf(linear.Path);
        var (a, b) = (Take(linear.Path, 'A', r, r, linear.Inputs), Take(linear.Path, 'B', r, linear.Outputs, r));
        return new LowRank(Make(a, Tensor.Empty(DType.F32, linear.Weight.Device, r, linear.Inputs)), Make(b, Tensor.Empty(DType.F32, linear.Weight.Device, linear.Outputs, r)), _settings.ScaleOf(linear.Path), (float)_settings.Dropout);
    }

    private LowRankExperts PairsOf(ExpertBank bank)
    {
        var (ranks, scale) = LoraAdapter.RanksOf(bank, _settings);
        (Tensor A, Tensor B) Stack(int projection, int r, int inputs, int outputs)
        {
            var (a, b) = (new float[(long)bank.Count * r * inputs], new float[(long)bank.Count * outputs * r]);
            for (var e = 0; e < bank.Count; e++)
            {
                var path = $"{bank.Path}.{e}.{ExpertBank.Projections[projection]}";
                Take(path, 'A', r, r, inputs).CopyTo(a.AsSpan(e * r * inputs));
                Take(path, 'B', r, outputs, r).CopyTo(b.AsSpan(e * outputs * r));
            }
            return (Make(a, bank.EmptyPairs(bank.Count, r, inputs)), Make(b, bank.EmptyPairs(bank.Count, outputs, r)));
        }
        var (gate, up, down) = (Stack(0, ranks.Gate, bank.Width, bank.Inner), Stack(1, ranks.Up, bank.Width, bank.Inner), Stack(2, ranks.Down, bank.Inner, bank.Width));
        return new LowRankExperts(gate.A, gate.B, up.A, up.B, down.A, down.B, scale, (float)_settings.Dropout);
    }

    private float[] Take(string path, char half, int rank, long rows, long columns)
    {
        var name = $"{AdapterTensors.Prefix}{path}.lora_{half}.weight";
        if (!_left.Remove(name)) throw new InvalidDataException($"{_path}: tensor '{name}' is missing; an adapter holds both halves of every pair{(path.Contains(".experts.", StringComparison.Ordinal) ? " and every expert of a layer" : "")}");
        var stored = _tensors[name];
        if (stored.Type is not ("F32" or "BF16" or "F16" or "Q8_0") || !stored.Shape.SequenceEqual([rows, columns])) throw new InvalidDataException($"{_path}: tensor '{stored.Source}' must be [{rows}, {columns}] for this base and rank {rank}, but is {stored}");
        _log?.Invoke($"Loaded adapter weight: {stored.Source} -> {path}.lora_{half}.default.weight");
        return stored.Read();
    }

    private Tensor Make(float[] values, Tensor target)
    {
        _made.Add(target);
        using var host = Tensor.From(values, target.Shape);
        Memory.Copy(host, target);
        target.RequiresGrad = _trained;
        return target;
    }
}
