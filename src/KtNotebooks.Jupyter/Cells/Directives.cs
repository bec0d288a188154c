using System.Runtime.InteropServices;

using KtNotebooks.Interactive;

using Microsoft.CodeAnalysis;
using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>The lines of a cell that are not C#: `#!…`, `#r` and `#i`.</summary>
internal static class Directives
{
    private static readonly (string Name, string Help)[] Known =
    [
        ("about", "show versions of the kernel, .NET and the compiler"),
        ("debug", "compile this and later cells without optimisation"),
        ("help", "show this list"),
        ("keep-old", "do not free the old values of variables that this cell declares again"),
        ("load", "\"file.csx\" as a line of its own: run a C# script here"),
        ("lsmagic", "list the magic commands"),
        ("release", "compile this and later cells with optimisation (the default)"),
        ("time", "show how long the cell took"),
        ("who", "list the names of the variables"),
        ("whos", "list the variables with types and values"),
    ];

    private static readonly string[] OtherLanguages =
        ["fsharp", "f#", "pwsh", "powershell", "sql", "kql", "javascript", "js", "html", "mermaid", "markdown", "http", "python", "r", "connect", "share",
            "set", "value"];

    internal static void Run(Directive directive, CSharpSession session, Cell cell)
    {
        switch (directive.Name)
        {
            case "csharp" or "c#" or "time": break;
            case "keep-old": cell.KeepOld = true; break;
            case "debug": session.Chain.Optimization = OptimizationLevel.Debug; break;
            case "release": session.Chain.Optimization = OptimizationLevel.Release; break;
            case "who": cell.Output.Show(Formatter.Bundle(session.Variables.All.Select(v => v.Name).ToArray()), null); break;
            case "whos":
                cell.Output.Show(Formatter.Bundle(session.Variables.All.Select(v =>
                    new { v.Name, Type = TypeNames.Of(v.Type), Value = PlainText.Short(v.Value) }).ToArray()), null);
                break;
            case "lsmagic": cell.Output.Show(new MimeBundle(string.Join('\n', Known.Select(k => $"#!{k.Name,-10} {k.Help}"))), null); break;
            case "help": cell.Output.Page(Help()); break;
            case "about": cell.Output.Show(new MimeBundle(About()), null); break;
            case "r": Reference(directive, session, cell); break;
            case "i": NuGetReferences.AddSource(directive.Argument); break;
            case "import": throw new NotSupportedException($"[cell line {directive.Line}] #!import is not supported; #load \"file.csx\" runs a C# script");
            case var name when OtherLanguages.Contains(name):
                throw new NotSupportedException($"[cell line {directive.Line}] #!{name}: this kernel runs C# only, and shares nothing with other languages");
            case var name:
                throw new ArgumentException($"[cell line {directive.Line}] #!{name} is no command of this kernel; #!lsmagic lists them");
        }
    }

    private static void Reference(Directive directive, CSharpSession session, Cell cell)
    {
        const string NuGet = "nuget:";
        if (directive.Argument.StartsWith(NuGet, StringComparison.OrdinalIgnoreCase))
        {
            session.AddReferences(session.Packages.Add(directive.Argument[NuGet.Length..], cell.KernelCancel));
        }
        else if (session.References.AddFile(directive.Argument) is { } path)
        {
            session.AddReferences([path]);
        }
    }

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
