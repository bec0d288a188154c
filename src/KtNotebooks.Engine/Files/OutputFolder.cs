using KtNotebooks.Interop;

namespace KtNotebooks.Files;

/// <summary>Folders that are written: why one cannot be made is said with what was to come into it, not in the system's words.</summary>
public static class OutputFolder
{
    /// <summary>Its whole path.</summary>
    /// <exception cref="ArgumentException">Empty, or no path.</exception>
    public static string Full(string path, string what)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (path.Length == 0 || path.Contains('\0', StringComparison.Ordinal)) throw new ArgumentException($"the folder for {what} is empty or no path");
        return Path.GetFullPath(path);
    }

    /// <summary>Makes it, with the folders above it, where it is not there.</summary>
    /// <param name="path">The folder.</param>
    /// <param name="what">What comes into it, for errors: "the converted model".</param>
    /// <exception cref="IOException">A file stands in the way, or the system refuses.</exception>
    public static void Create(string path, string what)
    {
        for (var at = Path.GetFullPath(path); at is not null; at = Path.GetDirectoryName(at))
        {
            var kind = FileKinds.Of(at);
            if (kind == FileKind.Folder) break;
            if (kind != FileKind.None) throw new IOException($"{path}: cannot be made for {what}: {at} is a file; choose another folder");
        }
        try
        {
            Directory.CreateDirectory(path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new IOException($"{path}: cannot be made for {what}: {Reason(error)}", error);
        }
    }

    /// <summary>Why the system refused, in a few plain words.</summary>
    public static string Reason(Exception error) => error switch
    {
        UnauthorizedAccessException => "this user may not write there",
        PathTooLongException => "the path is too long; choose a shorter one",
        DirectoryNotFoundException => "the folder above it is not there, or is a link to nothing",
        _ => error.Message.ReplaceLineEndings(" "),
    };
}
