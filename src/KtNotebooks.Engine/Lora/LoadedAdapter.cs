using KtNotebooks.Models;
using KtNotebooks.Nn;

namespace KtNotebooks.Lora;

/// <summary>An adapter that has been read and fits a model, not yet beside it. Freed by whoever does not install it.</summary>
/// <param name="pairs">In model order.</param>
public sealed class LoadedAdapter(IReadOnlyList<(IAdaptable Module, LoraWeights Lora)> pairs) : IDisposable
{
    private bool _installed;

    /// <summary>Puts it beside the model's linears and experts: nothing is read or copied any more. Replaces what is there.</summary>
    /// <param name="model">The one that it was read for.</param>
    /// <param name="name">Null: it trains, or answers by default.</param>
    public void Install(CausalLm model, string? name)
    {
        ObjectDisposedException.ThrowIf(_installed, this);
        if (name is null) LoraAdapter.Detach(model);
        else NamedAdapters.Remove(model, name);
        foreach (var (module, lora) in pairs)
        {
            if (name is null) module.Adapter = lora;
            else module.Named.Add(name, lora);
        }
        _installed = true;
        WeightVersion.NamedChange();
    }

    public void Dispose()
    {
        if (_installed) return;
        _installed = true;
        foreach (var (_, lora) in pairs) lora.Dispose();
    }
}
