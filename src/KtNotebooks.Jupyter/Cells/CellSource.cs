using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>A line that is for the kernel: `#!name argument`, `#r "what"` or `#i "what"`. <paramref name="Line"/> counts from 1.</summary>
internal sealed record Directive(string Name, string Argument, int Line)
{
    /// <summary>The lines that are its own, those below it: of #!value, #!html, #!markdown and #!javascript.</summary>
    public string Body { get; init; } = "";

    public bool HasBody => Name is "html" or "markdown" or "javascript" or "js" || Name == "value" && !Argument.Contains("--from-", StringComparison.Ordinal);

    /// <summary>Whether it is about what the cell has done, and so comes after it.</summary>
    public bool IsLate => Name is "who" or "whos";

    /// <summary>Whether it may run the user's code, or that of a package.</summary>
    public bool RunsCode => Name is "import" or "set" or "share" or "value" or "r";
}

/// <summary>
/// A cell split into directives and C#. Directive lines become blank ones of their length, so that lines in errors and places of the cursor stay true.
/// The compiler itself would take `#!` on the very first line only.
/// </summary>
internal sealed record CellSource(string Code, IReadOnlyList<Directive> Directives)
{
    internal static CellSource Split(string text)
    {
        if (!text.Contains('#')) return new CellSource(text, []);
        var lines = text.Split('\n');
        List<Directive> directives = [];
        Func<int, bool>? inString = null;
        for (int i = 0, start = 0; i < lines.Length; i++)
        {
            var length = lines[i].Length + 1;
            if (Read(lines[i].TrimEnd(), i + 1) is { } directive && !(inString ??= StringFinder(text))(start))
            {
                lines[i] = Blank(lines[i]);
                if (directive.HasBody)
                {
                    var end = Array.FindIndex(lines, i + 1, l => l.StartsWith("#!", StringComparison.Ordinal)) is var next && next < 0 ? lines.Length : next;
                    directive = directive with { Body = string.Join('\n', lines[(i + 1)..end]) };
                    for (var at = i + 1; at < end; at++) lines[at] = Blank(lines[at]);
                }
                directives.Add(directive);
            }
            start += length;
        }
        return new CellSource(string.Join('\n', lines), directives);
    }

    private static string Blank(string line) => new(' ', line.Length);

    private static Directive? Read(string line, int number)
    {
        if (line.StartsWith("#!", StringComparison.Ordinal) && line.Length > 2)
        {
            var name = line[2..].Split((char[])[' ', '\t'], 2, StringSplitOptions.TrimEntries);
            return new Directive(name[0], name.Length > 1 ? name[1] : "", number);
        }
        if (line.StartsWith("#r ", StringComparison.Ordinal) || line.StartsWith("#i ", StringComparison.Ordinal))
        {
            var argument = line[3..].Split("//")[0].Trim();
            var comment = line[3..].Trim();
            return new Directive(line[1..2], (comment.StartsWith('"') ? comment.Split('"')[1] : argument).Trim(), number);
        }
        return null;
    }

    /// <returns>Whether a position lies inside a token, that is, in a multi-line string, or in a comment.</returns>
    private static Func<int, bool> StringFinder(string text)
    {
        var root = ScriptChain.Tree(text).GetRoot();
        return position =>
        {
            var token = root.FindToken(position);
            if (token.SpanStart < position && position < token.Span.End) return true;
            var trivia = root.FindTrivia(position);
            return trivia.IsKind(SyntaxKind.MultiLineCommentTrivia) && trivia.SpanStart < position;
        };
    }
}
