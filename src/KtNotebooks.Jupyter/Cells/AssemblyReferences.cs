using System.Reflection.Metadata;
using System.Reflection.PortableExecutable;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// Assemblies that cells brought in by `#r "path.dll"`. They are loaded from a shadow copy, so that a build can overwrite the original;
/// one that was rebuilt since is refused, because the old code would silently go on running.
/// </summary>
internal sealed class AssemblyReferences(CellLoadContext loader)
{
    private readonly Dictionary<string, (string Path, Guid Version)> _loaded = new(StringComparer.OrdinalIgnoreCase);
    private readonly Lazy<string> _shadow = new(() => Directory.CreateTempSubdirectory("kt-kernel-").FullName);

    internal CellLoadContext Loader { get; } = loader;

    /// <returns>The path to give to the compiler; null when the same file is already there.</returns>
    internal string? AddFile(string path)
    {
        if (!Path.IsPathRooted(path) && WorkingFolder.Path is null)
            throw new FileNotFoundException($"[#r] {path}: the kernel's working folder is no longer there; name the file with its full path", path);
        var full = Path.GetFullPath(path);
        if (!File.Exists(full))
        {
            if (!path.Contains('/') && Framework.Has(Path.GetFileNameWithoutExtension(path))) return null;
            throw new FileNotFoundException($"[#r] {full} does not exist; paths are relative to the kernel's folder {WorkingFolder.Path}", full);
        }
        var (name, version) = Identity(full);
        if (Framework.Has(name)) return null;
        if (_loaded.TryGetValue(name, out var old))
        {
            if (old.Version == version) return null;
            throw new InvalidOperationException(
                $"[#r] {Path.GetFileName(full)} changed since it was loaded from {old.Path}; .NET cannot replace a loaded assembly: restart the kernel to use "
                    + "the new one");
        }
        var copy = Path.Combine(_shadow.Value, Path.GetFileName(full));
        File.Copy(full, copy, overwrite: true);
        foreach (var extension in (string[])[".pdb", ".xml"])
        {
            var side = Path.ChangeExtension(full, extension);
            if (File.Exists(side)) File.Copy(side, Path.ChangeExtension(copy, extension), overwrite: true);
        }
        _loaded[name] = (full, version);
        Loader.Add(copy, Path.GetDirectoryName(full)!);
        return copy;
    }

    private static (string Name, Guid Version) Identity(string path)
    {
        try
        {
            using var pe = new PEReader(File.OpenRead(path));
            var metadata = pe.GetMetadataReader();
            return (metadata.GetString(metadata.GetAssemblyDefinition().Name), metadata.GetGuid(metadata.GetModuleDefinition().Mvid));
        }
        catch (Exception e) when (e is BadImageFormatException or InvalidOperationException)
        {
            throw new InvalidDataException($"[#r] {path} is not a .NET assembly; native libraries are found by DllImport, without #r", e);
        }
    }
}
