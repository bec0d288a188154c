using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// Console.Clear() of a cell clears its output. .NET's own writes a code to the terminal, which a kernel does not have, and so does nothing; unlike
/// Console.WriteLine it asks no writer that could stand in for it.
/// </summary>
internal static class ConsoleCalls
{
    private const string Ours = "global::KtNotebooks.Jupyter.Cells.CellApi.ClearOutput";

    /// <returns>The calls with ours in their place.</returns>
    internal static IEnumerable<Edit> In(SyntaxNode root, Func<SemanticModel> model)
    {
        foreach (var call in root.DescendantNodes().OfType<InvocationExpressionSyntax>())
        {
            if (call.Expression is MemberAccessExpressionSyntax { Name.Identifier.ValueText: nameof(Console.Clear) } method
                && method.Expression.ToString() is "Console" or "System.Console" or "global::System.Console"
                && model().GetSymbolInfo(call).Symbol is IMethodSymbol { ContainingType: { Name: nameof(Console), ContainingNamespace.Name: nameof(System) } }
                && !call.Expression.DescendantTrivia().Any(t => t.IsKind(SyntaxKind.EndOfLineTrivia)))
                yield return new Edit(call.Expression.SpanStart, Ours, call.Expression.Span.Length);
        }
    }
}
