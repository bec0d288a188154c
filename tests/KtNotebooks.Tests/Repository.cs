namespace KtNotebooks.Tests;

/// <summary>The checkout that the tests run in.</summary>
internal static class Repository
{
    /// <summary>The folder of KtNotebooks.sln, above the test program.</summary>
    public static string Root { get; } = Find();

    /// <summary>Copies a folder's files, not its rights, so that the copy can be changed.</summary>
    public static void Copy(string from, string to)
    {
        foreach (var file in Directory.EnumerateFiles(from, "*", SearchOption.AllDirectories))
        {
            var target = Path.Combine(to, Path.GetRelativePath(from, file));
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
            File.WriteAllBytes(target, File.ReadAllBytes(file));
        }
    }

    private static string Find()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "KtNotebooks.sln"))) folder = Path.GetDirectoryName(folder) ?? throw new DirectoryNotFoundException("the tests run inside a checkout: no KtNotebooks.sln above " + AppContext.BaseDirectory);
        return folder;
    }
}
