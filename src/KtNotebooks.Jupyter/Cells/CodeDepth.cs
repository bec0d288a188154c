using Microsoft.CodeAnalysis.CSharp;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>Code that the compiler is not given, with the place and the reason.</summary>
internal sealed class CodeRefusedException(string message) : Exception(message);

/// <summary>
/// The compiler walks nested code by recursion, and a full stack ends the process. Brackets that nest deeper than a person writes or a generator needs are refused before the compiler sees them; tokens are read
/// one after another, without recursion. Against what nests without brackets the compiler guards itself.
/// </summary>
internal static class CodeDepth
{
    internal const int MostBrackets = 400, MostCharacters = 8 << 20;

    /// <exception cref="CodeRefusedException">It is too deep or too long.</exception>
    internal static void Check(string code, string label)
    {
        if (code.Length > MostCharacters)
        {
            throw new CodeRefusedException($"{label}: the code has {code.Length / 1e6:N0} million characters, of which {MostCharacters / 1e6:N0} million are taken; read data from a file");
        }
        if (code.Length <= MostBrackets) return;
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
            if (depth <= MostBrackets) continue;
            var before = code.AsSpan(0, token.SpanStart);
            var (line, column) = (before.Count('\n') + 1, before.Length - before.LastIndexOf('\n'));
            throw new CodeRefusedException($"{label}({line},{column}): brackets stand more than {MostBrackets} deep in one another; use a loop, or parts with names");
        }
    }
}
