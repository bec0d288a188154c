using System.Runtime.InteropServices;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Hosting;

using Microsoft.CodeAnalysis;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>The lines of a cell that are not C#: `#!…`, `#r` and `#i`, and what some of them have below them.</summary>
internal static class Directives
{
    private static readonly (string Name, string Help)[] Known =
    [
        ("about", "show versions of the kernel, .NET and the compiler"),
        ("debug", "compile this and later cells without optimisation"),
        ("help", "show this list"),
        ("html, #!markdown", "show the lines below as HTML or Markdown"),
        ("import", "FILE: run the C# of a notebook (.ipynb, .dib) or of a file (.cs, .csx)"),
        ("javascript, #!js", "run the lines below in the browser"),
        ("keep-old", "do not free the old values of variables that this cell declares again"),
        ("load", "\"file.csx\" as a line of its own: run a C# script here"),
        ("lsmagic", "list the magic commands"),
        ("release", "compile this and later cells with optimisation (the default)"),
        ("set", "--name NAME --value TEXT, @KERNEL:NAME or @input:\"prompt\": make a variable"),
        ("share", "--from KERNEL NAME [--as NAME]: take a value from another kernel"),
        ("time", "show how long the cell took"),
        ("value", "--name NAME, and lines below or --from-file FILE: store a text, for #!share --from value"),
        ("who", "list the names of the variables"),
        ("whos", "list the variables with types and values"),
    ];

    private static readonly string[] OtherLanguages =
        ["fsharp", "f#", "pwsh", "powershell", "sql", "kql", "mermaid", "http", "python", "connect"];

    internal static async Task Run(Directive directive, CSharpSession session, Cell cell)
    {
        switch (directive.Name)
        {
            case "csharp" or "c#" or "time": break;
            case "keep-old": cell.KeepOld = true; break;
            case "debug": session.Chain.Optimization = OptimizationLevel.Debug; break;
            case "release": session.Chain.Optimization = OptimizationLevel.Release; break;
            case "who": cell.Output.Show(Bundles.Of(session.Variables.All.Select(v => v.Name).ToArray()), null); break;
            case "whos":
                cell.Output.Show(session.Variables.All.Aggregate(new Table("name", "type", "value"),
                    (table, v) => table.Row(v.Name, TypeNames.Of(v.Type), Bundles.Short(v.Value))).Show(), null);
                break;
            case "lsmagic": cell.Output.Show(new MimeBundle(string.Join('\n', Known.Select(k => $"#!{k.Name,-10} {k.Help}"))), null); break;
            case "help": cell.Output.Page(Help()); break;
            case "about": cell.Output.Show(new MimeBundle(About()), null); break;
            case "r": await Reference(directive, session, cell); break;
            case "html": cell.Output.Show(new MimeBundle(directive.Body).With("text/html", directive.Body), null); break;
            case "markdown": cell.Output.Show(new MimeBundle(directive.Body).With("text/markdown", directive.Body), null); break;
            case "javascript" or "js": cell.Output.Show(new MimeBundle(directive.Body).With("text/html", Script(directive.Body)), null); break;
            case "i": NuGetReferences.AddSource(directive.Argument); break;
            case "import": await session.Import(directive.Argument.Trim('"')); break;
            case "set": await ValueDirectives.Set(directive, session.Kernel); break;
            case "share": await ValueDirectives.Share(directive, session.Kernel); break;
            case "value": await ValueDirectives.Value(directive, session.Kernel); break;
            case var name when OtherLanguages.Contains(name):
                throw new NotSupportedException($"[cell line {directive.Line}] #!{name}: this kernel runs C# only");
            case var name:
                throw new ArgumentException($"[cell line {directive.Line}] #!{name} is no command of this kernel; #!lsmagic lists them");
        }
    }

    private static async Task Reference(Directive directive, CSharpSession session, Cell cell)
    {
        const string NuGet = "nuget:";
        if (directive.Argument.StartsWith(NuGet, StringComparison.OrdinalIgnoreCase))
        {
            session.AddReferences(session.Packages.Add(directive.Argument[NuGet.Length..], cell.KernelCancel));
            await session.Extensions.Load(session.Packages.Folders, session.Loader);
        }
        else if (session.References.AddFile(directive.Argument) is { } path)
        {
            session.AddReferences([path]);
        }
    }

    /// <summary>A script as .NET Interactive sends it; what would end it early stands in no script but as a text, where the backslash is not seen.</summary>
    private static string Script(string code) =>
        $"<script type=\"text/javascript\">{code.Replace("</script", "<\\/script", StringComparison.OrdinalIgnoreCase)}</script>";

    private static string Help() => $"""
        C# in cells, with the engine's namespaces already imported. The last expression of a cell, without a semicolon, is shown.
        display(x), x.Display(), HTML("…") show things; Cancel is the token of the running cell, which the stop button cancels.
        Put hot loops into a function: variables of a cell's top level are fields, and several times slower.
        Running a cell again frees the old values of its variables; functions of older cells keep calling what they were compiled with.

        {string.Join('\n', Known.Select(k => $"#!{k.Name,-10} {k.Help}"))}
        #r "path.dll", #r "nuget: Name, Version" reference an assembly or a package
        """;

    private static string About() =>
        $"KtNotebooks {typeof(Directives).Assembly.GetName().Version?.ToString(3)}, C# "
            + $"{Microsoft.CodeAnalysis.CSharp.LanguageVersion.CSharp14.ToString()[6..]}, "
        + $"{RuntimeInformation.FrameworkDescription}, {RuntimeInformation.RuntimeIdentifier}, Roslyn "
        + $"{typeof(Compilation).Assembly.GetName().Version?.ToString(3)}";
}
