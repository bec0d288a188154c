namespace KtNotebooks.Tests;

/// <summary>The checkout that the tests run in.</summary>
internal static class Checkout
{
    public static string Root => KtNotebooks.Interactive.Repository.Root;

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
}
