using KtNotebooks.Nn;

namespace KtNotebooks.Server;

/// <summary>A name that requests may ask for.</summary>
public sealed class ServedModel
{
    private int _active;

    internal ServedModel(string name, string adapter, string? path = null) => (Name, Adapter, Path, Created) = (name, adapter, path, DateTimeOffset.UtcNow);

    public string Name { get; }

    /// <summary>The adapter that acts, or `base`.</summary>
    public string Adapter { get; }

    public DateTimeOffset Created { get; }

    /// <summary>Requests that it answers now.</summary>
    public int Active => Volatile.Read(ref _active);

    /// <summary>Where its adapter was loaded from; for the server's own eyes.</summary>
    internal string? Path { get; }

    /// <summary>Of a reward model: what makes a value of a text's last state; owned by the engine.</summary>
    internal ValueHead? Values { get; set; }

    internal void Enter() => Interlocked.Increment(ref _active);

    internal void Leave() => Interlocked.Decrement(ref _active);
}
