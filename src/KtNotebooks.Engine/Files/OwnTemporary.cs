using System.Text.RegularExpressions;

namespace KtNotebooks.Files;

/// <summary>
/// Names of what is still being written. They are ours alone: nobody else has 32 random digits in one, so what bears such a name may be removed, and
/// what a person calls `x.tmp` is never touched.
/// </summary>
public static partial class OwnTemporary
{
    /// <summary>A new name in a folder.</summary>
    public static string In(string folder) => Path.Combine(folder, $".kt-{Guid.NewGuid():N}.tmp");

    /// <summary>A new name beside a folder or file that will be made, which says for whom it is.</summary>
    public static string Beside(string target)
    {
        var full = Path.GetFullPath(target).TrimEnd(Path.DirectorySeparatorChar);
        return Path.Combine(Path.GetDirectoryName(full) ?? full, $".{Path.GetFileName(full)}.kt-{Guid.NewGuid():N}.tmp");
    }

    /// <summary>Removes what runs that died left in a folder. Only for who holds its <see cref="FolderLock"/>.</summary>
    public static void Sweep(string folder) => Remove(folder, name => Pattern().Match(name) is { Success: true } match && match.Groups["for"].Length == 0);

    /// <summary>Removes what runs that died left beside a target. Only for who holds its lock.</summary>
    public static void SweepBeside(string target)
    {
        var full = Path.GetFullPath(target).TrimEnd(Path.DirectorySeparatorChar);
        var name = Path.GetFileName(full);
        bool IsFor(string other) => Pattern().Match(other) is { Success: true } match && match.Groups["for"].Value == "." + name;
        if (Path.GetDirectoryName(full) is { } folder) Remove(folder, IsFor);
    }

    private static void Remove(string folder, Func<string, bool> isOurs)
    {
        if (!Directory.Exists(folder)) return;
        foreach (var path in Directory.GetFileSystemEntries(folder, ".*.tmp"))
        {
            if (!isOurs(Path.GetFileName(path))) continue;
            if (Directory.Exists(path)) Directory.Delete(path, recursive: true);
            else if (!Interop.LockedFile.IsTaken(path)) File.Delete(path); // a file that is being written is locked by its writer
        }
    }

    [GeneratedRegex(@"^(?<for>\..+)?\.kt-[0-9a-f]{32}\.tmp$", RegexOptions.CultureInvariant)]
    private static partial Regex Pattern();
}
