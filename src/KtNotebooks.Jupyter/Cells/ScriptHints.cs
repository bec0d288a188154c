using Microsoft.CodeAnalysis;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>A way out for each thing that works in a C# program but not at the top level of a C# script.</summary>
internal static class ScriptHints
{
    internal static string? For(Diagnostic diagnostic, string? line) => diagnostic.Id switch
    {
        "CS1002" or "CS1001" or "CS1003" or "CS1525" when StartsWith(line, "using ") && !StartsWith(line, "using (") =>
            "a cell cannot declare `using var x = …` at top level; write `using (var x = …) { … }`, or `var x = …` and let re-running the cell free it",
        "CS1003" or "CS1525" or "CS8172" or "CS8171"
            when StartsWith(line, "ref ") => "a cell cannot declare a `ref` local at top level; put the code in { } or in a function",
        "CS8345" => "a cell's variables live on the heap, so a Span cannot be one; put the code in { } or in a function",
        "CS7021" => "a cell cannot declare a namespace; leave the namespace line away",
        "CS1109" => "write the extension method at top level, without a class: `static int F(this int x) => …`",
        "CS9283" => "a cell cannot hold an extension block; write `static int F(this int x) => …` at top level",
        "CS9298" or "CS9297" => "`#:` lines belong to file-based apps; in a notebook write #r \"nuget: Name, Version\"",
        "CS1061" when line?.Contains("partial ",
            StringComparison.Ordinal) == true => "a partial class cannot continue one of another cell; write the class in one cell",
        "CS0029" or "CS1503"
            when SameTypeTwice(diagnostic.GetMessage()) => "the class was defined again since the object was made; re-run the cell that made the object",
        "CS0103" or "CS0246" => "is the cell that defines it run, or a `using` or #r missing?",
        _ => null,
    };

    private static bool StartsWith(string? line, string text) => line?.TrimStart().StartsWith(text, StringComparison.Ordinal) == true;

    /// <summary>"Cannot convert type 'Net' to 'Net'" is said about the old and the new definition of one name.</summary>
    private static bool SameTypeTwice(string message)
    {
        var quoted = message.Split('\'').Where((_, i) => i % 2 == 1).Select(n => n[(n.LastIndexOf('.') + 1)..]).ToArray();
        return quoted.Length >= 2 && quoted[^1] == quoted[^2];
    }
}
