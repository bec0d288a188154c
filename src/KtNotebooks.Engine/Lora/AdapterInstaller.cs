using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// Puts stored pairs beside a model's linears and experts: as the adapter that trains, or frozen under a name. All or nothing: a tensor that is missing,
/// does not fit or is left over leaves the model as it was.
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
    public static void Put(CausalLm model, string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, string? name = null,
        Action<string>? log = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(settings);
        new AdapterInstaller(path, settings, tensors, name is null, log).Run(model, name);
    }

    private void Run(CausalLm model, string? name)
    {
        List<(Nn.Linear Linear, LinearLora Pair)> linears = [];
        List<(ExpertBank Bank, ExpertLora Lora)> banks = [];
        var (with, withExperts) = Adapted(model);
        if (with.Count == 0 && withExperts.Count == 0)
            throw new InvalidDataException($"{_path}: none of its {_tensors.Count} tensors fits this model; the first is '{First(_tensors.Keys)}'. It " +
                "belongs to another architecture");
        Require(with, withExperts);
        try
        {
            foreach (var linear in with) linears.Add((linear, PairOf(linear)));
            foreach (var bank in withExperts) banks.Add((bank, LoraOf(bank)));
            if (_left.Count > 0)
                throw new InvalidDataException($"{_path}: tensor '{First(_left)}' fits no linear layer of this model, which has {model.Info.Layers} " +
                    $"layers ({_left.Count} such)");
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

    /// <summary>What the tensors belong to, in model order.</summary>
    private (List<Nn.Linear> Linears, List<ExpertBank> Banks) Adapted(CausalLm model)
    {
        var paths = _tensors.Keys.Select(AdapterNames.ModuleOf).ToHashSet();
        return ([.. model.All().OfType<Nn.Linear>().Where(l => paths.Contains(l.Path))],
            [.. model.All().OfType<ExpertBank>()
                .Where(b => Enumerable.Range(0, b.Count).Any(e => b.Names.All.Any(n => paths.Contains(n.Module(e)))))]);
    }

    private void Require(List<Nn.Linear> linears, List<ExpertBank> banks)
    {
        try
        {
            RankLimit.Require(linears, banks, _settings, "its rank (r)");
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"{_path}: {error.Message}");
        }
    }

    /// <summary>The first by PEFT's name, under the name that it has in the file.</summary>
    private string First(IEnumerable<string> names) => _tensors[names.Order(StringComparer.Ordinal).First()].Source;

    private LinearLora PairOf(Nn.Linear linear)
    {
        var r = _settings.RankOf(linear.Path);
        var (a, b) = (Take(linear.Path, 'A', r, r, linear.Inputs), Take(linear.Path, 'B', r, linear.Outputs, r));
        var device = linear.Weight.Device;
        var (A, B) = (Made(Tensor.Empty(DType.F32, device, r, linear.Inputs)), Made(Tensor.Empty(DType.F32, device, linear.Outputs, r)));
        Fill(a, A);
        Fill(b, B);
        return new LinearLora(A, B, _settings.ScaleOf(linear.Path), (float)_settings.Dropout);
    }

    private ExpertLora LoraOf(ExpertBank bank)
    {
        var (ranks, scale) = LoraAdapter.RanksOf(bank, _settings);
        (Tensor A, Tensor B) Stack(int projection, int r, int inputs, int outputs)
        {
            List<(AdapterTensor A, AdapterTensor B)> pairs = [];
            for (var e = 0; e < bank.Count; e++)
            {
                var path = bank.Names.All[projection].Module(e);
                pairs.Add((Take(path, 'A', r, r, inputs), Take(path, 'B', r, outputs, r)));
            }
            var (A, B) = (Made(bank.EmptyLora(bank.Count, r, inputs)), Made(bank.EmptyLora(bank.Count, outputs, r)));
            for (var e = 0; e < bank.Count; e++)
            {
                using var a = A.Slice(e, 1);
                using var b = B.Slice(e, 1);
                Fill(pairs[e].A, a);
                Fill(pairs[e].B, b);
            }
            return (A, B);
        }
        var (gate, up, down) = (Stack(0, ranks.Gate, bank.Width, bank.Inner), Stack(1, ranks.Up, bank.Width, bank.Inner),
            Stack(2, ranks.Down, bank.Inner, bank.Width));
        return new ExpertLora(gate.A, gate.B, up.A, up.B, down.A, down.B, scale, (float)_settings.Dropout);
    }

    /// <summary>A half that must be there and fit; its values are not read yet.</summary>
    private AdapterTensor Take(string path, char half, int rank, long rows, long columns)
    {
        var name = $"{AdapterTensors.Prefix}{path}.lora_{half}.weight";
        if (!_left.Remove(name))
            throw new InvalidDataException($"{_path}: tensor '{name}' is missing; an adapter holds both halves of every "
                + $"pair{(path.Contains(".experts.", StringComparison.Ordinal) ? " and every expert of a layer" : "")}");
        var stored = _tensors[name];
        if (!stored.IsReadable || !stored.Shape.SequenceEqual([rows, columns]))
            throw new InvalidDataException($"{_path}: tensor '{stored.Source}' must be [{rows}, {columns}] for this base and rank {rank}, but is {stored}");
        _log?.Invoke($"Loaded adapter weight: {stored.Source} -> {path}.lora_{half}.default.weight");
        return stored;
    }

    private Tensor Made(Tensor target)
    {
        _made.Add(target);
        target.RequiresGrad = _trained;
        return target;
    }

    private static void Fill(AdapterTensor source, Tensor target)
    {
        using var host = Tensor.From(source.Read(), target.Shape);
        Memory.Copy(host, target);
    }
}
