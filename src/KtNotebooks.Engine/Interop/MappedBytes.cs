namespace KtNotebooks.Interop;

/// <summary>
/// Mapped files under watch: one that somebody cuts while its pages are read ends the process with a line that names it, instead of by a signal without a
/// word. Where the native library is not there, it stays silent.
/// </summary>
internal static unsafe class MappedBytes
{
    private static readonly Lazy<bool> Watchable = new(() => OperatingSystem.IsLinux() && Cpu.HasLibrary);

    /// <summary>Watches a map until <see cref="Leave"/>; before it is unmapped.</summary>
    /// <param name="line">What to say where the file has no such bytes any more.</param>
    public static void Watch(byte* begin, long bytes, string line)
    {
        if (!Watchable.Value) return;
        // A progress line may stand on the terminal.
        var start = Console.IsErrorRedirected ? "" : "\n";
        Native.Ok(Native.kt_watch(begin, bytes, $"{start}{line}\n"));
    }

    public static void Leave(byte* begin)
    {
        if (Watchable.Value) Native.kt_unwatch(begin);
    }
}
