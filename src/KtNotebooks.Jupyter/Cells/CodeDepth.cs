using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>Code that the compiler is not given, with the place and the reason.</summary>
internal sealed class CodeRefusedException(string message) : Exception(message);

/// <summary>
/// The compiler walks nested code by recursion, and a full stack ends the process. Code that nests deeper than a person writes or a generator needs is
/// refused: brackets and strings in strings before it is parsed (the parser guards itself against the rest), everything else by the depth of the tree,
/// before it is compiled. No walk here is recursive.
/// </summary>
internal static class CodeDepth
{
    internal const int MostBrackets = 400, MostStrings = 20, MostLevels = 1000, MostCharacters = 8 << 20;

    /// <summary>For code that runs.</summary>
    /// <exception cref="CodeRefusedException">It is too deep or too long.</exception>
    internal static void Check(string code, string label)
    {
        if (Fault(code) is { } fault) throw Refused(code, label, fault.Position, fault.Reason);
    }

    /// <inheritdoc cref="Check(string, string)"/>
    internal static void Check(SyntaxNode root, string code, string label)
    {
        if (DeepNode(root) is { } node) throw Refused(code, label, node.SpanStart, $"the code stands more than {MostLevels} levels deep in itself");
    }

    /// <summary>Whether completion and inspection may look at it.</summary>
    internal static bool IsReadable(string code) => Fault(code) is null && DeepNode(ScriptChain.Tree(CellSource.Split(code).Code).GetRoot()) is null;

    private static CodeRefusedException Refused(string code, string label, int position, string reason)
    {
        var before = code.AsSpan(0, position);
        return new CodeRefusedException($"{label}({before.Count('\n') + 1},{before.Length - before.LastIndexOf('\n')}): {reason}; use a loop, or parts with "
            + "names");
    }

    private static (int Position, string Reason)? Fault(string code)
    {
        if (code.Length > MostCharacters)
            return (MostCharacters, $"the cell has {code.Length / 1e6:N0} million characters, of which {MostCharacters / 1e6:N0} million are taken: data "
                + "belong into a file");
        if (DeepString(code) is { } text) return (text, $"strings with values stand more than {MostStrings} deep in one another");
        if (code.Length <= MostBrackets) return null;
        var depth = 0;
        foreach (var token in SyntaxFactory.ParseTokens(code, options: ScriptChain.Options))
        {
            depth += token.Kind() switch
            {
                SyntaxKind.OpenParenToken or SyntaxKind.OpenBraceToken or SyntaxKind.OpenBracketToken => 1,
                SyntaxKind.CloseParenToken or SyntaxKind.CloseBraceToken or SyntaxKind.CloseBracketToken => -1,
                _ => 0,
            };
            if (depth < 0) depth = 0; // closes what was never opened, which is the compiler's to say
            if (depth > MostBrackets) return (token.SpanStart, $"brackets stand more than {MostBrackets} deep in one another");
        }
        return null;
    }

    /// <summary>Reading `$"{$"{…}"}"` takes the compiler the square of its depth and more.</summary>
    private static int? DeepString(string code)
    {
        var depth = 0;
        for (var i = 0; i < code.Length; i++)
        {
            if (code[i] == '}' && depth > 0) depth--;
            else if (code[i] == '$' && code.AsSpan(0, i).TrimEnd(" @\r\n\t").EndsWith("{") && ++depth > MostStrings) return i;
        }
        return null;
    }

    /// <summary>`a + b + c` nests to the left without end, and the compiler takes that as a list.</summary>
    private static SyntaxNode? DeepNode(SyntaxNode root)
    {
        Stack<(SyntaxNode Node, int Level)> open = new([(root, 0)]);
        while (open.TryPop(out var at))
        {
            if (at.Level > MostLevels) return at.Node;
            var left = (at.Node as BinaryExpressionSyntax)?.Left;
            foreach (var child in at.Node.ChildNodes())
                open.Push((child, child == left && !left.IsKind(SyntaxKind.CoalesceExpression) ? at.Level : at.Level + 1));
        }
        return null;
    }
}
