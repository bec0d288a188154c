using System.Buffers.Text;
using KtNotebooks.Interop;

namespace KtNotebooks.Tensors;

/// <summary>
/// The memory of the machine, as its system tells. Linux gives out more than it has and kills the process that touches it; whoever is about to fill much of
/// it for long (weights) asks first, and a person reads a line instead of "Killed".
/// </summary>
public static class HostMemory
{
    /// <summary>What the rest of the process and the system keep.</summary>
    private const long Reserve = 512L << 20;

    /// <summary>/proc/meminfo in bytes by name; empty where there is none.</summary>
    public static IReadOnlyDictionary<string, long> Read() => File.Exists("/proc/meminfo")
        ? File.ReadLines("/proc/meminfo").Select(l => l.Split(':', StringSplitOptions.TrimEntries))
        .ToDictionary(p => p[0], p => long.Parse(p[1].Split(' ')[0], System.Globalization.CultureInfo.InvariantCulture) * 1024)
        : new Dictionary<string, long>();

    /// <summary>
    /// What this process has filled of its own memory, pinned memory included. A system that does not tell it apart (some sandboxes) gives all that the
    /// process holds, mapped files too; <see cref="OfFiles"/> is 0 there.
    /// </summary>
    public static long Own => Status("RssAnon") is > 0 and var own ? own : Environment.WorkingSet;

    /// <summary>Pages of mapped files that count for this process: checkpoints, and the program itself.</summary>
    public static long OfFiles => Status("RssFile");

    private static long Status(string name) => File.Exists("/proc/self/status")
        && File.ReadLines("/proc/self/status").FirstOrDefault(l => l.StartsWith(name, StringComparison.Ordinal)) is { } line
        && line.Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries) is [_, var kilobytes, ..]
        && long.TryParse(kilobytes, System.Globalization.CultureInfo.InvariantCulture, out var number) ? number * 1024 : 0;

    /// <summary>Asks for bytes that will all be written. Small ones pass unasked.</summary>
    /// <param name="bytes">So many.</param>
    /// <param name="instead">What a person may do where they do not fit.</param>
    /// <exception cref="InsufficientMemoryException">So much is not available.</exception>
    internal static void Require(long bytes, string instead = "map the weights instead of copying them, or keep experts in fewer bits (int8, int4)")
    {
        if (bytes < 1 << 20) return;
        if (Available() is { } available && bytes > available - Reserve)
            throw new InsufficientMemoryException($"{ByteSize.Text(bytes)} more do not fit the host memory, of which {ByteSize.Text(available)} are " +
                $"available; {instead}");
    }

    /// <summary>The same for pinned memory, which the system fills at once.</summary>
    /// <exception cref="InsufficientMemoryException">So much is not available.</exception>
    internal static void RequirePinned(long bytes) => Require(bytes, "pinned memory holds for cards what waits for its turn: give fewer tokens a step, "
        + "expert_lora: card, optimizer_state: card, or experts in fewer bits (int8, int4)");

    /// <summary>Processes of a run on this machine, each of which takes its part.</summary>
    internal static int Sharers { get; set; } = 1;

    /// <summary>What this process may still fill: its part of what the system has left or its container may have; 0 where the system does not tell.</summary>
    internal static long Left => Math.Min(Available() ?? 0, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes) / Sharers;

    /// <summary>MemAvailable alone, without garbage: loading asks once a tensor, of which a large model has a hundred thousand. Null: nobody tells.</summary>
    private static long? Available()
    {
        if (!File.Exists("/proc/meminfo")) return null;
        Span<byte> text = stackalloc byte[512]; // its third line
        using var file = File.OpenHandle("/proc/meminfo");
        text = text[..RandomAccess.Read(file, text, 0)];
        var at = text.IndexOf("MemAvailable:"u8);
        if (at < 0) return null;
        return Utf8Parser.TryParse(text[(at + "MemAvailable:".Length)..].TrimStart((byte)' '), out long kilobytes, out _) ? kilobytes * 1024 : null;
    }
}
