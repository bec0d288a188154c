namespace KtNotebooks.Interop;

/// <summary>
/// Mapped files under watch: one that somebody cuts while its pages are read ends the process with a line that names it, instead of by a signal without a
/// word. Where the native library is not there, it stays silent.
/// </summary>
internal static unsafe class MappedBytes
{
    private static readonly Lazy<bool> Watchable = new(() => OperatingSystem.IsLinux() && Cpu.HasLibrary);

    /// <summary>Watches a map until <see cref="Leave"/>; before it is unmapped.</summary>
    public static void Watch(byte* begin, long bytes, string path)
    {
        if (!Watchable.Value) return;
        // A progress line may stand on the terminal.
        var start = Console.IsErrorRedirected ? "" : "\n";
        var name = path.Length <= 300 ? path : "…" + path[^300..];
        Native.Ok(Native.kt_watch(begin, bytes, $"{start}kt: {name} has become shorter while it was read; leave a model's files alone while it is in use\n"));
    }

    public static void Leave(byte* begin)
    {
        if (Watchable.Value) Native.kt_unwatch(begin);
    }
}
