namespace KtNotebooks.Nn;

/// <summary>
/// What layers keep from the forward to the backward pass of a step instead of computing it again, by layer and first row. Of different layers it may be
/// asked from a thread each.
/// </summary>
public sealed class KeptStates : IDisposable
{
    private readonly Dictionary<(object Layer, long FirstRow), IDisposable> _states = [];
    private readonly Lock _lock = new();

    /// <summary>How many wait.</summary>
    internal int Count
    {
        get
        {
            lock (_lock) return _states.Count;
        }
    }

    /// <summary>It owns the state until it is taken.</summary>
    internal void Keep(object layer, long firstRow, IDisposable state)
    {
        lock (_lock)
        {
            if (_states.Remove((layer, firstRow), out var old)) old.Dispose();
            _states.Add((layer, firstRow), state);
        }
    }

    /// <summary>The caller's from now on; null: nothing was kept.</summary>
    internal IDisposable? Take(object layer, long firstRow)
    {
        lock (_lock) return _states.Remove((layer, firstRow), out var state) ? state : null;
    }

    /// <summary>Frees what nobody took.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            foreach (var state in _states.Values) state.Dispose();
            _states.Clear();
        }
    }
}
