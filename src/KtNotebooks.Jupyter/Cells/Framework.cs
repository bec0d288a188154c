using System.Reflection;
using System.Runtime.InteropServices;

using KtNotebooks.DotNetInteractive;

using Microsoft.CodeAnalysis;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// What every cell can use without `#r`: the .NET framework, our assemblies, .NET Interactive's and the kernel's own functions.
/// </summary>
internal static class Framework
{
    /// <summary>.NET Interactive's default imports; the others are those of the extension that it loads.</summary>
    private static readonly string[] Usings =
    [
        "System", "System.Text", "System.Collections", "System.Collections.Generic", "System.Threading.Tasks", "System.Linq",
    ];

    /// <summary>Types whose static members are in scope: `display`, `HTML`, `input`, `Cancel`, ….</summary>
    private static readonly string[] StaticUsings = ["Microsoft.DotNet.Interactive.Kernel", typeof(CellScope).FullName!, typeof(CellApi).FullName!];

    /// <summary>Besides, cells see these, and share them with the kernel: a formatter that a cell or a package registers is the kernel's own.</summary>
    private static readonly Assembly[] Shared =
    [
        typeof(Microsoft.AspNetCore.Html.IHtmlContent).Assembly, typeof(Microsoft.DotNet.Interactive.Kernel).Assembly,
        typeof(Microsoft.DotNet.Interactive.Formatting.Formatter).Assembly, typeof(System.Reactive.Unit).Assembly, typeof(CellScope).Assembly,
        typeof(Framework).Assembly, typeof(Microsoft.ML.Tokenizers.Tokenizer).Assembly, typeof(Microsoft.Data.Analysis.DataFrame).Assembly,
        typeof(Microsoft.Extensions.AI.IChatClient).Assembly, typeof(Microsoft.Extensions.Logging.ILogger).Assembly,
        typeof(System.Numerics.Tensors.TensorPrimitives).Assembly,
    ];

    /// <summary>What the kernel is made of, and packages for .NET Interactive bring along.</summary>
    private static readonly string[] Hidden = ["Microsoft.DotNet.Interactive.Documents", "Microsoft.CodeAnalysis", "Microsoft.CodeAnalysis.CSharp",
        "Apache.Arrow", "Google.Protobuf", "Microsoft.ML.DataView"];

    private static readonly Lazy<string[]> Paths = new(FindPaths);
    private static readonly Lazy<HashSet<string>> Names = new(() =>
        new(Paths.Value.Select(p => Path.GetFileNameWithoutExtension(p)!), StringComparer.OrdinalIgnoreCase));

    internal static bool Has(string assemblyName) => Names.Value.Contains(assemblyName) || Hidden.Contains(assemblyName, StringComparer.OrdinalIgnoreCase);

    internal static IEnumerable<MetadataReference> References() => Paths.Value.Select(p => MetadataReference.CreateFromFile(p));

    internal static IEnumerable<string> Imports() => [.. Usings, .. CellScope.Namespaces, .. StaticUsings];

    private static string[] FindPaths()
    {
        var shared = RuntimeEnvironment.GetRuntimeDirectory();
        var own = CellScope.Assemblies.Select(Assembly.Load).Concat(Shared).Select(a => a.Location);
        return [.. Directory.EnumerateFiles(shared, "*.dll").Where(IsManaged), .. own];
    }

    private static bool IsManaged(string path)
    {
        var name = Path.GetFileName(path);
        return name.StartsWith("System.", StringComparison.Ordinal) && !name.Contains(".Native", StringComparison.Ordinal)
            || name is "mscorlib.dll" or "netstandard.dll" or "WindowsBase.dll" or "Microsoft.CSharp.dll" or "Microsoft.VisualBasic.Core.dll"
            or "Microsoft.Win32.Primitives.dll";
    }
}
