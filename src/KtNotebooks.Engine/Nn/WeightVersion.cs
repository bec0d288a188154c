namespace KtNotebooks.Nn;

/// <summary>
/// Counts the changes of weights in this process: optimizer steps, adapters put on and taken off. What was computed and kept under another number, such as the
/// rows of a prompt, may no longer be what the model would compute.
/// </summary>
public static class WeightVersion
{
    private static long _current, _named;

    public static long Current => Interlocked.Read(ref _current);

    /// <summary>The same of adapters under names alone: one that comes changes nothing that was kept of others.</summary>
    internal static long Named => Interlocked.Read(ref _named);

    /// <summary>To be called by whoever puts an adapter under a new name.</summary>
    internal static void NamedChange() => Interlocked.Increment(ref _named);

    /// <summary>To be called by whoever changes weights in place.</summary>
    public static void Change() => Interlocked.Increment(ref _current);
}
