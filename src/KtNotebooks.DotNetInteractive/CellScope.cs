using System.Reflection;

using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.DotNetInteractive;

/// <summary>What cells have in scope besides .NET Interactive's own: namespaces, and the members of this class.</summary>
public static class CellScope
{
    /// <summary>The assemblies of ours whose namespaces are imported.</summary>
    public static IReadOnlyList<string> Assemblies { get; } = ["KtNotebooks.Engine", "KtNotebooks.Bench", "KtNotebooks.Course", "KtNotebooks.Interactive",
        "KtNotebooks.Server"];

    /// <summary>The four that notebooks add most often to .NET Interactive's, this one, and all of ours.</summary>
    public static IEnumerable<string> Namespaces =>
    [
        "System.IO", "System.Threading", "System.Diagnostics", "System.Net.Http", typeof(CellScope).Namespace!,
        .. Assemblies.SelectMany(NamespacesOf).Distinct().Order(StringComparer.Ordinal),
    ];

    /// <summary>The token of the running cell: cancelled when the user stops it. Pass it to long work, or poll it in loops.</summary>
    public static CancellationToken Cancel => Token();

    /// <summary>A host that knows more of its cells has its own.</summary>
    internal static Func<CancellationToken> Token { get; set; } = () => KernelInvocationContext.Current?.CancellationToken ?? CancellationToken.None;

#pragma warning disable IDE1006 // The lower-case name is the notebooks' own.
    /// <summary>
    /// Shows a value, and can show another one in its place. .NET Interactive's own method of this name (1.0.712001, the last one) shows one object and gives
    /// back another with an id of its own, whose Update changes nothing; being generic this one is preferred to it.
    /// </summary>
    public static DisplayedValue display<T>(T value, params string[] mimeTypes) => value.Display(mimeTypes);
#pragma warning restore IDE1006

    private static IEnumerable<string> NamespacesOf(string assemblyName) =>
        Assembly.Load(assemblyName).GetExportedTypes().Select(t => t.Namespace).OfType<string>()
            .Where(n => n.StartsWith("KtNotebooks", StringComparison.Ordinal));
}

/// <summary>The same behind the value: x.Display().</summary>
public static class CellDisplayExtensions
{
    public static DisplayedValue Display<T>(this T value, params string[] mimeTypes) =>
        KernelInvocationContext.Current is { } context ? context.Display(value, mimeTypes) : DisplayExtensions.Display(value, mimeTypes);
}
