using KtNotebooks.Interop;

namespace KtNotebooks.Files;

/// <summary>Folders that are written into.</summary>
public static class Folders
{
    /// <summary>Its whole path.</summary>
    /// <exception cref="ArgumentException">Empty, or no path.</exception>
    public static string Full(string path, string what)
    {
        RequireName(path, what);
        return Path.GetFullPath(path);
    }

    /// <summary>Makes a folder, and those above it, where it is not there yet.</summary>
    /// <param name="path">The folder.</param>
    /// <param name="what">What it is for, as errors begin: the key that names it, such as output_dir.</param>
    /// <exception cref="IOException">A file stands in its place, or the system does not let it be made.</exception>
    public static void Create(string path, string what)
    {
        RequireName(path, what);
        try
        {
            Directory.CreateDirectory(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new IOException($"{what} {path}: the folder cannot be made: {Reason(path, error)}");
        }
    }

    /// <summary>Says early, before long work, that a folder cannot be made or written into; makes nothing.</summary>
    /// <inheritdoc cref="Create"/>
    public static void RequireWritable(string path, string what)
    {
        RequireName(path, what);
        var at = Path.GetFullPath(path);
        while (FileKinds.Of(at) == FileKind.None && new FileInfo(at).LinkTarget is null && Path.GetDirectoryName(at) is { } above) at = above;
        if (FileKinds.Of(at) != FileKind.Folder)
            throw new IOException($"{what} {path}: the folder cannot be made: {Reason(at, new IOException("nothing can be made there"))}");
        if (!FileKinds.IsWritable(at))
            throw new IOException($"{what} {path}: cannot be written into: this user may not write into {at}, or its disk is read-only");
    }

    private static void RequireName(string path, string what)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (path.Length == 0 || path.Contains('\0', StringComparison.Ordinal))
            throw new ArgumentException($"{what} must be the name of a folder, but is '{path.Replace("\0", "\\0", StringComparison.Ordinal)}'");
    }

    private static string Reason(string path, Exception error)
    {
        for (var at = Path.GetFullPath(path); at is not null; at = Path.GetDirectoryName(at))
        {
            var kind = FileKinds.Of(at);
            if (kind is FileKind.File or FileKind.Other) return $"{at} is a file";
            if (kind == FileKind.None && new FileInfo(at).LinkTarget is { } target) return $"{at} is a link to {target}, which is not there";
        }
        return error switch
        {
            UnauthorizedAccessException => "this user may not write there",
            DirectoryNotFoundException or FileNotFoundException => "the system lets nothing be made there",
            PathTooLongException => "the name is too long",
            _ => Cause(error),
        };
    }

    /// <summary>What the system says, without the path that .NET puts behind it.</summary>
    internal static string Cause(Exception error)
    {
        var at = error.Message.IndexOf(" : '", StringComparison.Ordinal);
        return at < 0 ? error.Message.TrimEnd('.') : error.Message[..at];
    }
}
