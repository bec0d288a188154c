namespace KtNotebooks.Tensors;

/// <summary>
/// Counts how often a tensor that outlives passes (a cache that grew, a table that was extended) was given another place. Whoever keeps addresses, as recorded
/// passes do, looks here before using them again.
/// </summary>
internal static class LastingTensors
{
    private static long _moves;

    public static long Moves => Interlocked.Read(ref _moves);

    public static void Moved() => Interlocked.Increment(ref _moves);
}
