using KtNotebooks.Jupyter.Cells;

using Microsoft.AspNetCore.Html;
using Microsoft.DotNet.Interactive.Formatting;

namespace Microsoft.DotNet.Interactive;

/// <summary>What every cell can call without a prefix. Names and behaviour are .NET Interactive's, so that its notebooks run unchanged.</summary>
public static class Kernel
{
    /// <summary>The token of the running cell: cancelled when the user stops it. Pass it to long work, or poll it in loops.</summary>
    public static CancellationToken Cancel => Cell.Current?.Cancel ?? CancellationToken.None;

#pragma warning disable IDE1006 // The lower-case names are the notebooks' own.
    public static DisplayedValue display(object? value, params string[] mimeTypes) => DisplayedValue.Show(value, mimeTypes);

    /// <summary>Asks the user for a line; throws NotSupportedException where nobody can answer.</summary>
    public static string input(string prompt = "") => Ask(prompt, false);

    /// <summary>Like <see cref="input"/>, without showing what is typed.</summary>
    public static string password(string prompt = "") => Ask(prompt, true);
#pragma warning restore IDE1006

    public static IHtmlContent HTML(string content) => new HtmlString(content);

    public static void CSS(string content) => DisplayedValue.Show(new HtmlString($"<style>{content}</style>"), []);

    public static void Javascript(string scriptContent) => DisplayedValue.Show(new FormattedValue("application/javascript", scriptContent), []);

    public static Task<string> GetInputAsync(string prompt = "", string typeHint = "text") => Task.FromResult(Ask(prompt, typeHint == "password"));

    public static Task<string> GetPasswordAsync(string prompt = "") => Task.FromResult(Ask(prompt, true));

    /// <summary>Removes the cell's output, at once or when the next output comes.</summary>
    public static void ClearOutput(bool wait = false) => Cell.Current?.Output.Clear(wait);

    private static string Ask(string prompt, bool password)
    {
        var cell = Cell.Current ?? throw new NotSupportedException("[input] only a running cell can ask for input");
        return cell.Output.ReadLine(prompt, password, cell.KernelCancel);
    }
}

/// <summary>.NET Interactive's way to the running cell.</summary>
public sealed class KernelInvocationContext
{
    private KernelInvocationContext(CancellationToken token) => CancellationToken = token;

    /// <summary>Null outside of a cell.</summary>
    public static KernelInvocationContext? Current => Cell.Current is { } cell ? new KernelInvocationContext(cell.Cancel) : null;

    public CancellationToken CancellationToken { get; }
}
