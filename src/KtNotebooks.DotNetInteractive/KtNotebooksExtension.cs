using KtNotebooks.Interactive;

using Microsoft.Data.Analysis;
using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.DotNetInteractive;

/// <summary>What happens when .NET Interactive has found our package: extension.dib calls it.</summary>
public static class KtNotebooksExtension
{
    /// <summary>Imports what <see cref="CellScope"/> says, shows live charts in their cells, and lets an interrupt stop the cell, not the process.</summary>
    /// <param name="root">The kernel that cells are sent to.</param>
    public static void Load(Kernel root)
    {
        ArgumentNullException.ThrowIfNull(root);
        Display.Host = new InteractiveDisplay();
        RegisterFormatters();
        ShowableFormatters.SendsJson = JupyterFront.SendsJson;
        StopSignal.CancelsCellsOf(root);
        // Before the next code, and not within the code that calls this: its declarations would be lost.
        if (root.FindKernelByName("csharp") is { } csharp) csharp.DeferCommand(new SubmitCode(Usings(), "csharp"));
    }

    /// <summary>For types that are not ours: ours say themselves how they are shown.</summary>
    internal static void RegisterFormatters()
    {
        Formatter.SetPreferredMimeTypesFor(typeof(DataFrame), HtmlFormatter.MimeType, "text/markdown", PlainTextFormatter.MimeType);
        Formatter.Register<DataFrame>(frame => frame.AsTable().ToHtml(), HtmlFormatter.MimeType);
        Formatter.Register<DataFrame>(frame => frame.AsTable().ToMarkdown(), "text/markdown");
        Formatter.Register<DataFrame>(frame => frame.AsTable().ToText(), PlainTextFormatter.MimeType);
    }

    private static string Usings() =>
        string.Join('\n', CellScope.Namespaces.Select(n => $"using {n};").Append($"using static {typeof(CellScope).FullName};"));
}
