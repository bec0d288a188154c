using KtNotebooks.Interop;

namespace KtNotebooks.Files;

/// <summary>A file that may be copied out of a folder.</summary>
/// <param name="Name">Its path below the folder.</param>
/// <param name="Source">The file itself, links followed.</param>
public sealed record FolderFile(string Name, string Source, long Bytes);

/// <summary>
/// The files of a downloaded folder that are its own, for copying them. A link counts where it leads to a file in the same folder, or in the blobs of Hugging
/// Face's cache that the folder belongs to
/// (snapshots/REVISION/FILE → ../../blobs/HASH); one that leads elsewhere would copy a stranger's file into a model. Linked folders are not entered: they would
/// come twice, or for ever.
/// </summary>
public static class FolderFiles
{
    /// <summary>The deepest folders that are entered.</summary>
    private const int Depth = 32;

    /// <returns>The files in order of their names, and a sentence for everything that is left out.</returns>
    public static (IReadOnlyList<FolderFile> Files, IReadOnlyList<string> LeftOut) Of(string folder)
    {
        RegularFile.RequireFolder(folder, "a folder of files");
        var root = FileKinds.RealPath(folder) ?? Path.GetFullPath(folder);
        List<string> own = [root + Path.DirectorySeparatorChar];
        if (Path.GetDirectoryName(root) is { } snapshots && Path.GetFileName(snapshots) == "snapshots")
            own.Add(Path.Combine(Path.GetDirectoryName(snapshots)!, "blobs") + Path.DirectorySeparatorChar);
        List<FolderFile> files = [];
        List<string> leftOut = [];
        Walk(root, "", 0);
        return ([.. files.OrderBy(f => f.Name, StringComparer.Ordinal)], leftOut);

        bool IsOwn(string source) => own.Exists(place => source.StartsWith(place, StringComparison.Ordinal));

        void Walk(string at, string below, int depth)
        {
            FileSystemInfo[] entries;
            try
            {
                entries = [.. new DirectoryInfo(at).GetFileSystemInfos().Where(e => e.Name[0] != '.').OrderBy(e => e.Name, StringComparer.Ordinal)];
            }
            catch (UnauthorizedAccessException)
            {
                leftOut.Add($"{below}: a folder that this user may not read");
                return;
            }
            foreach (var entry in entries)
            {
                var name = below + entry.Name;
                var kind = FileKinds.Of(entry.FullName);
                if (kind == FileKind.Folder && entry.LinkTarget is null && depth < Depth) Walk(entry.FullName, name + "/", depth + 1);
                else if (kind == FileKind.Folder && entry.LinkTarget is { } to) leftOut.Add($"{name}: a link to the folder {to}");
                else if (kind == FileKind.Folder) leftOut.Add($"{name}: more than {Depth} folders deep");
                else if (kind == FileKind.Other) leftOut.Add($"{name}: a pipe, a device or a socket");
                else if (FileKinds.RealPath(entry.FullName) is not { } source) leftOut.Add($"{name}: a link to {entry.LinkTarget}, which is not there");
                else if (!IsOwn(source)) leftOut.Add($"{name}: a link to {source}, outside this folder");
                else files.Add(new FolderFile(name, source, new FileInfo(source).Length));
            }
        }
    }
}
