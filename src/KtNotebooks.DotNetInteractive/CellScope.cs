using System.Reflection;

using Microsoft.DotNet.Interactive;

namespace KtNotebooks.DotNetInteractive;

/// <summary>What cells have in scope besides .NET Interactive's own: namespaces, and the members of this class.</summary>
public static class CellScope
{
    /// <summary>The assemblies of ours whose namespaces are imported.</summary>
    public static IReadOnlyList<string> Assemblies { get; } = ["KtNotebooks.Engine", "KtNotebooks.Bench", "KtNotebooks.Course", "KtNotebooks.Interactive"];

    /// <summary>The four that notebooks add most often to .NET Interactive's, and all of ours.</summary>
    public static IEnumerable<string> Namespaces =>
    [
        "System.IO", "System.Threading", "System.Diagnostics", "System.Net.Http",
        .. Assemblies.SelectMany(NamespacesOf).Distinct().Order(StringComparer.Ordinal),
    ];

    /// <summary>The token of the running cell: cancelled when the user stops it. Pass it to long work, or poll it in loops.</summary>
    public static CancellationToken Cancel => KernelInvocationContext.Current?.CancellationToken ?? CancellationToken.None;

    private static IEnumerable<string> NamespacesOf(string assemblyName) =>
        Assembly.Load(assemblyName).GetExportedTypes().Select(t => t.Namespace).OfType<string>()
            .Where(n => n.StartsWith("KtNotebooks", StringComparison.Ordinal));
}
