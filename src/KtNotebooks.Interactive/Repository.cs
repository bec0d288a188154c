namespace KtNotebooks.Interactive;

/// <summary>
/// The checkout that a notebook runs in. A cell names files from the repository's root, so that it works from the folder of the notebook (a browser,
/// nbclient), from the root (<c>kt notebook run</c>) and from anywhere below:
/// <code>var config = Repository.Path("notebooks/configs/kt_tiny_neko_lora.yaml");</code>
/// </summary>
public static class Repository
{
    private const string Marker = "KtNotebooks.sln";

    /// <summary>The absolute path of the folder that holds KtNotebooks.sln: found upwards from the current directory, else upwards from the program.</summary>
    /// <exception cref="DirectoryNotFoundException">Neither lies in a checkout.</exception>
    public static string Root => Find() ?? throw new DirectoryNotFoundException(
        $"[repository] no {Marker} in {Environment.CurrentDirectory} or above it, nor above {AppContext.BaseDirectory}; run this inside a checkout of "
            + "KtNotebooks");

    /// <summary>The same, or null outside every checkout.</summary>
    public static string? Find() => Above(Environment.CurrentDirectory) ?? Above(AppContext.BaseDirectory);

    /// <summary>The absolute path of a file or folder of the checkout, given from its root. It need not exist.</summary>
    public static string Path(string relative)
    {
        ArgumentNullException.ThrowIfNull(relative);
        return System.IO.Path.GetFullPath(relative, Root);
    }

    private static string? Above(string folder)
    {
        for (var at = new DirectoryInfo(folder); at is not null; at = at.Parent)
        {
            if (File.Exists(System.IO.Path.Combine(at.FullName, Marker))) return at.FullName;
        }
        return null;
    }
}
