using System.Globalization;

using KtNotebooks.Files;

namespace KtNotebooks.Jupyter;

/// <summary>
/// What a kernel was doing, kept in a file beside the connection file, so that the kernel which Jupyter starts in place of one that died can say why: a
/// full stack, the system's memory killer or a call of Environment.Exit end a process without a word to the notebook. A kernel that ends as it should
/// removes the file.
/// </summary>
internal sealed class LastWords
{
    private const int ShownCharacters = 60;
    private readonly string _path;
    private readonly long? _killsBefore = MemoryKills();
    private readonly Lock _gate = new();
    private string _cell = "";
    private bool _forgotten;

    /// <param name="connectionFile">Jupyter keeps it when it restarts a kernel.</param>
    internal LastWords(string connectionFile)
    {
        // Not kernel-*.json, which Jupyter takes for running kernels.
        var file = Path.GetFullPath(connectionFile);
        _path = Path.Combine(Path.GetDirectoryName(file)!, "." + Path.GetFileName(file) + ".kt");
        Before = Read();
        Write("");
    }

    /// <summary>A line about the kernel before this one; null if it ended as it should, or there was none.</summary>
    internal string? Before { get; private set; }

    /// <summary>Gives the line away, once.</summary>
    internal string? TakeBefore()
    {
        var line = Before;
        Before = null;
        return line;
    }

    /// <summary>A cell starts.</summary>
    internal void Runs(string label, string code)
    {
        var first = code.TrimStart().Split('\n', 2)[0].Trim();
        _cell = $"{label} (`{(first.Length > ShownCharacters ? first[..ShownCharacters] + "…" : first)}`)";
        Write("");
    }

    internal void Rests()
    {
        _cell = "";
        Write("");
    }

    /// <summary>The process is about to end, for a reason that is known.</summary>
    internal void Ends(string reason) => Write(reason);

    /// <summary>It ends as it should.</summary>
    internal void Forget()
    {
        lock (_gate)
        {
            _forgotten = true;
            try
            {
                File.Delete(_path);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // As in Write.
            }
        }
    }

    private void Write(string reason)
    {
        lock (_gate)
        {
            if (!_forgotten) WriteFile(reason);
        }
    }

    private void WriteFile(string reason)
    {
        try
        {
            File.WriteAllLines(_path, [_cell, reason.ReplaceLineEndings(" "), _killsBefore?.ToString(CultureInfo.InvariantCulture) ?? ""]);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A kernel works without: only the word after its death is missing.
        }
    }

    private string? Read()
    {
        try
        {
            if (!File.Exists(_path)) return null;
            var lines = RegularFile.ReadAllText(_path, "a kernel's last words", 1 << 16).Split('\n');
            if (lines.Length < 3) return null;
            var during = lines[0].Length > 0 ? $" while it ran {lines[0]}" : "";
            var killed = MemoryKills() is { } now && long.TryParse(lines[2], NumberStyles.None, CultureInfo.InvariantCulture, out var then) && now > then;
            var reason = lines[1].Length > 0 ? lines[1]
                : killed ? "the system ended it for want of memory"
                : "it was killed, called Environment.FailFast, or its stack was full (endless recursion)";
            return $"[kernel] the kernel ended{during}: {reason}. This is a new one: its variables are gone\n";
        }
        catch (Exception e) when (e is IOException or InvalidDataException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>How many processes of this container the system has ended for want of memory; null where it does not say.</summary>
    private static long? MemoryKills()
    {
        try
        {
            var line = File.ReadLines("/sys/fs/cgroup/memory.events").FirstOrDefault(l => l.StartsWith("oom_kill ", StringComparison.Ordinal));
            return line is not null && long.TryParse(line["oom_kill ".Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var count) ? count : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
