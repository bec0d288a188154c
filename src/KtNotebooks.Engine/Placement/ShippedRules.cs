namespace KtNotebooks.Placement;

/// <summary>The rules files that come with the program: the folder rules/ beside the solution that the current directory or the program lies in.</summary>
internal static class ShippedRules
{
    /// <summary>Their names.</summary>
    public static IReadOnlyList<string> Names => Folder() is { } folder ? [.. Directory.EnumerateFiles(folder, "*.yaml").Select(f => Path.GetFileName(f)!)]
        : [];

    /// <summary>The path of one of them; null: there is none of that name.</summary>
    public static string? Find(string name) => Folder() is { } folder && Names.Contains(name) ? Path.Combine(folder, name) : null;

    private static string? Folder()
    {
        foreach (var start in new[] { Directory.GetCurrentDirectory(), AppContext.BaseDirectory })
            for (var at = new DirectoryInfo(start); at is not null; at = at.Parent)
                if (File.Exists(Path.Combine(at.FullName, "KtNotebooks.sln")) && Directory.Exists(Path.Combine(at.FullName, "rules")))
                    return Path.Combine(at.FullName, "rules");
        return null;
    }
}
