using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Generation;

/// <summary>
/// The named adapters of a model on one card side by side, so that a step's rows may each have their own (<see cref="MixedRows"/>). Made when rows of several
/// adapters first meet, and again when adapters have come or gone.
/// </summary>
/// <param name="model">Not owned.</param>
internal sealed class AdapterTables(CausalLm model) : IDisposable
{
    private readonly bool _onCard = model.Head.Device is { Kind: DeviceKind.Cuda } head && model.Stages.All(s => s.Device == head);
    private readonly Dictionary<IAdaptable, AdapterTable> _tables = [];
    private string[] _names = [];
    private (long Weights, long Named) _of = (-1, -1);
    private bool _whole;
    private long _number;

    /// <summary>A pass with the adapters of its rows.</summary>
    /// <param name="pass">Its cache is told each row's adapter, where there are several.</param>
    /// <param name="sequences">Whose rows they are.</param>
    /// <param name="ends">Behind the last row of each.</param>
    public Pass With(Pass pass, Completion[] sequences, int[] ends)
    {
        List<AdapterRows> stretches = [];
        for (var i = 0; i < sequences.Length; i++)
        {
            if (stretches.Count > 0 && stretches[^1].Adapter == sequences[i].Request.Adapter) stretches.RemoveAt(stretches.Count - 1);
            stretches.Add(new AdapterRows(ends[i], sequences[i].Request.Adapter));
        }
        if (stretches.Count == 1) return pass with { Adapter = stretches[0].Adapter };
        return pass with { Adapters = stretches, Mixed = pass.Cache is { } cache ? Mixed(cache, stretches) : null };
    }

    public void Dispose()
    {
        foreach (var table in _tables.Values) table.Dispose();
        _tables.Clear();
    }

    /// <summary>Null: stretches are computed one after another.</summary>
    private MixedRows? Mixed(CacheBatch cached, List<AdapterRows> adapters)
    {
        var rows = adapters[^1].End;
        if (!_onCard || rows > MixedRows.Most || adapters.Any(a => a.Adapter is null)) return null;
        Renew();
        if (_tables.Count == 0) return null;
        var (places, from) = (new int[rows], 0);
        foreach (var (end, adapter) in adapters)
        {
            places.AsSpan(from, end - from).Fill(adapter == Pass.BaseModel ? -1 : Array.IndexOf(_names, adapter));
            from = end;
        }
        cached.AdapterOf = places;
        return new MixedRows(_tables, _number, _whole, cached, 0, rows);
    }

    private void Renew()
    {
        var now = (WeightVersion.Current, WeightVersion.Named);
        if (now == _of) return;
        Dispose();
        (_of, _names, _whole, _number) = (now, [.. NamedAdapters.Of(model)], true, _number + 1);
        foreach (var module in model.All().OfType<IAdaptable>().Where(m => m.Named.Count > 0))
        {
            if (module.TableOf(_names) is { } table) _tables.Add(module, table);
            else _whole = false;
        }
    }
}
