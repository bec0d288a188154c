using System.Reflection;
using System.Runtime.Loader;

using KtNotebooks.Jupyter.Cells;

using Microsoft.DotNet.Interactive;

namespace KtNotebooks.Jupyter.Hosting;

/// <summary>
/// What packages bring for notebooks in their folder interactive-extensions/dotnet: assemblies with classes that are told the kernel, and a script.
/// </summary>
internal sealed class PackageExtensions(CSharpSession session)
{
    private const string Folder = "interactive-extensions/dotnet", Script = "extension.dib";
    private readonly HashSet<string> _loaded = [];

    /// <param name="packages">The folders of unpacked packages. Each is loaded once.</param>
    /// <param name="loader">Where cells find what they use, and so the extensions.</param>
    internal async Task Load(IEnumerable<string> packages, AssemblyLoadContext loader)
    {
        foreach (var folder in packages.Select(p => Path.Combine(p, Folder)).Where(f => Directory.Exists(f) && _loaded.Add(f)).ToArray())
        {
            foreach (var file in Directory.GetFiles(folder, "*.dll").Order(StringComparer.Ordinal)) await Start(loader.LoadFromAssemblyPath(file));
            var script = Path.Combine(folder, Script);
            if (File.Exists(script)) await session.Import(script);
        }
    }

    private async Task Start(Assembly assembly)
    {
        foreach (var type in assembly.GetExportedTypes().Where(t => typeof(IKernelExtension).IsAssignableFrom(t) && t is { IsAbstract: false, IsClass: true }))
        {
            try
            {
                await ((IKernelExtension)Activator.CreateInstance(type)!).OnLoadAsync(session.Kernel.Composite);
            }
            catch (Exception e) when (e is not OperationCanceledException)
            {
                throw new InvalidOperationException($"[#r nuget] the extension {type.Name} of {assembly.GetName().Name} failed: {CellErrors.Brief(e)}", e);
            }
        }
    }
}
