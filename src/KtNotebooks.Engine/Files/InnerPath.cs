namespace KtNotebooks.Files;

/// <summary>
/// Names that stand in files (an index's shards, a data set's file_name, a checkpoint's parts) mean something inside that file's folder and nowhere else: a
/// downloaded model must not read or write beside itself.
/// </summary>
public static class InnerPath
{
    /// <summary>The folder and the name joined.</summary>
    /// <param name="folder">Where the file stands that gives the name.</param>
    /// <param name="name">A name, or a path below the folder.</param>
    /// <param name="source">That file, and the place in it, for the error.</param>
    /// <exception cref="InvalidDataException">An empty or absolute name, or one with `..`.</exception>
    public static string Of(string folder, string name, string source)
    {
        ArgumentNullException.ThrowIfNull(name);
        if (name.Length == 0 || name.Contains('\0', StringComparison.Ordinal) || Path.IsPathRooted(name) || name.Split('/', '\\').Contains(".."))
            throw new InvalidDataException($"{source}: '{name.Replace("\0", "\\0", StringComparison.Ordinal)}' must be the name of a file "
                + $"below {folder}, without .. and without a leading /");
        return Path.Combine(folder, name);
    }
}
