using System.Reflection;
using System.Runtime.InteropServices;

using Microsoft.CodeAnalysis;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// What every cell can use without `#r`: the .NET framework, our assemblies (<see cref="OwnAssemblies"/>) and the kernel's notebook API.
/// </summary>
internal static class Framework
{
    /// <summary>.NET Interactive's default imports, and the four that notebooks add most often.</summary>
    private static readonly string[] Usings =
    [
        "System", "System.Text", "System.Collections", "System.Collections.Generic", "System.Threading.Tasks", "System.Linq",
        "System.IO", "System.Threading", "System.Diagnostics", "System.Net.Http",
    ];

    /// <summary>Types whose static members are in scope: `display`, `HTML`, `input`, `Cancel`, ….</summary>
    private static readonly string[] StaticUsings = ["Microsoft.DotNet.Interactive.Kernel"];

    private static readonly string[] OwnAssemblies = ["KtNotebooks.Engine", "KtNotebooks.Bench", "KtNotebooks.Course", "KtNotebooks.Interactive"];

    private static readonly Lazy<string[]> Paths = new(FindPaths);
    private static readonly Lazy<HashSet<string>> Names = new(() =>
        new(Paths.Value.Select(p => Path.GetFileNameWithoutExtension(p)!), StringComparer.OrdinalIgnoreCase));

    internal static bool Has(string assemblyName) => Names.Value.Contains(assemblyName);

    internal static IEnumerable<MetadataReference> References() => Paths.Value.Select(p => MetadataReference.CreateFromFile(p));

    internal static IEnumerable<string> Imports() =>
        [.. Usings, .. OwnAssemblies.SelectMany(Namespaces).Distinct().Order(StringComparer.Ordinal), .. StaticUsings];

    private static IEnumerable<string> Namespaces(string assemblyName) =>
        Assembly.Load(assemblyName).GetExportedTypes().Select(t => t.Namespace).OfType<string>()
            .Where(n => n.StartsWith("KtNotebooks", StringComparison.Ordinal));

    private static string[] FindPaths()
    {
        var shared = RuntimeEnvironment.GetRuntimeDirectory();
        var own = OwnAssemblies.Select(n => Assembly.Load(n).Location);
        string[] extra = [typeof(Microsoft.AspNetCore.Html.IHtmlContent).Assembly.Location, typeof(Framework).Assembly.Location];
        return [.. Directory.EnumerateFiles(shared, "*.dll").Where(IsManaged), .. own, .. extra];
    }

    private static bool IsManaged(string path)
    {
        var name = Path.GetFileName(path);
        return name.StartsWith("System.", StringComparison.Ordinal) && !name.Contains(".Native", StringComparison.Ordinal)
            || name is "mscorlib.dll" or "netstandard.dll" or "WindowsBase.dll" or "Microsoft.CSharp.dll" or "Microsoft.VisualBasic.Core.dll"
            or "Microsoft.Win32.Primitives.dll";
    }
}
