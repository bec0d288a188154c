using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// Gives every loop of a cell a place where an abort can land. On Unix the runtime delivers it only when a call returns, so that an
/// optimised loop without calls would never end. The check reads one volatile flag an iteration; nothing else changes, not even a line.
/// Loops in finally blocks are left alone: clean-up runs to its end.
/// </summary>
internal static class LoopPolls
{
    private const string Poll = "if (global::KtNotebooks.Jupyter.CellInterrupt.Wanted) global::KtNotebooks.Jupyter.CellInterrupt.Land();";

    /// <returns>A check at the start of each loop's body.</returns>
    internal static IEnumerable<Edit> In(SyntaxNode root)
    {
        foreach (var node in root.DescendantNodes())
        {
            var body = node switch
            {
                WhileStatementSyntax loop => loop.Statement,
                ForStatementSyntax loop => loop.Statement,
                DoStatementSyntax loop => loop.Statement,
                CommonForEachStatementSyntax loop => loop.Statement,
                _ => null,
            };
            if (body is null || node.Ancestors().Any(a => a is FinallyClauseSyntax) || body is BlockSyntax { OpenBraceToken.IsMissing: true }) continue;
            if (body is BlockSyntax block)
            {
                yield return new Edit(block.OpenBraceToken.Span.End, Poll);
            }
            else
            {
                yield return new Edit(body.SpanStart, "{" + Poll);
                yield return new Edit(body.Span.End, "}");
            }
        }
    }
}
