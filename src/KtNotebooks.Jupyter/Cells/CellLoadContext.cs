using System.Reflection;
using System.Runtime.InteropServices;
using System.Runtime.Loader;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// Holds the compiled cells and what `#r` brought. What the kernel itself is made of (the framework, the engine) always comes from the
/// default context, so that a tensor of a cell is a tensor of the engine.
/// </summary>
internal sealed class CellLoadContext() : AssemblyLoadContext("cells")
{
    private readonly Dictionary<string, string> _paths = new(StringComparer.OrdinalIgnoreCase);
    private readonly List<string> _folders = [];

    /// <param name="path">Of the assembly to load when a cell needs it.</param>
    /// <param name="folder">Where its dependencies, managed and native, lie.</param>
    internal void Add(string path, string folder)
    {
        _paths[Path.GetFileNameWithoutExtension(path)] = path;
        AddFolder(folder);
    }

    internal void AddFolder(string folder)
    {
        if (!_folders.Contains(folder)) _folders.Add(folder);
    }

    protected override Assembly? Load(AssemblyName assemblyName)
    {
        var name = assemblyName.Name!;
        if (_paths.TryGetValue(name, out var path)) return LoadFromAssemblyPath(path);
        foreach (var folder in _folders)
        {
            var candidate = Path.Combine(folder, name + ".dll");
            if (File.Exists(candidate) && !Framework.Has(name)) return LoadFromAssemblyPath(candidate);
        }
        return null;
    }

    protected override nint LoadUnmanagedDll(string unmanagedDllName)
    {
        // The script hosts of old looked beside the assembly only; packages keep native files under runtimes/<rid>/native.
        foreach (var folder in _folders)
        {
            foreach (var sub in (string[])["", $"runtimes/{RuntimeInformation.RuntimeIdentifier}/native"])
            {
                foreach (var file in (string[])[unmanagedDllName, $"lib{unmanagedDllName}.so", $"{unmanagedDllName}.so", $"{unmanagedDllName}.dll",
                    $"lib{unmanagedDllName}.dylib"])
                {
                    var candidate = Path.Combine(folder, sub, file);
                    if (File.Exists(candidate)) return LoadUnmanagedDllFromPath(candidate);
                }
            }
        }
        return 0;
    }
}
