using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// Lets endless recursion end as an exception. .NET ends the whole process when the stack is full; a function that may call itself, directly or through
/// others of its cell, therefore looks first how much is left. Who calls whom is told by names alone: one guard too many costs two nanoseconds a call, and
/// functions without recursion stay as fast as they were.
/// </summary>
internal static class RecursionGuards
{
    private const string Plain = "global::KtNotebooks.Jupyter.CellRecursion.Check(out byte _);";
    private const string Awaited = "global::KtNotebooks.Jupyter.CellRecursion.CheckAsync();";

    /// <summary>Something that can be called by a name: its body, or its expression, and whether that gives a value.</summary>
    private sealed record Function(string Name, SyntaxNode Body, BlockSyntax? Block, ArrowExpressionClauseSyntax? Arrow, string Before, string After, bool Void,
        SyntaxToken Semicolon)
    {
        public string Guard => Body.Parent!.ChildTokens().Any(t => t.IsKind(SyntaxKind.AsyncKeyword)) ? Awaited : Plain;

        public HashSet<string> Names { get; } = [.. Body.DescendantTokens().Where(t => t.IsKind(SyntaxKind.IdentifierToken)).Select(t => t.ValueText)];
    }

    /// <param name="isVoid">Whether a lambda of one expression gives no value, which its text does not say; asked of those that call themselves.</param>
    /// <returns>A check at the start of each function that may call itself.</returns>
    internal static IEnumerable<Edit> In(SyntaxNode root, Func<AnonymousFunctionExpressionSyntax, bool> isVoid)
    {
        var functions = root.DescendantNodes().SelectMany(Find).ToList();
        var calls = functions.GroupBy(f => f.Name).ToDictionary(g => g.Key, g => g.SelectMany(f => f.Names).ToHashSet());
        foreach (var name in calls.Values) name.IntersectWith(calls.Keys);
        var recursive = calls.Keys.Where(name => Reaches(calls, name)).ToHashSet();
        return functions.Where(f => recursive.Contains(f.Name)).SelectMany(f => Edits(f, isVoid));
    }

    private static IEnumerable<Function> Find(SyntaxNode node) => node switch
    {
        MethodDeclarationSyntax m => Of(m.Identifier, m.Body, m.ExpressionBody, IsVoid(m.ReturnType, m.Modifiers), m.SemicolonToken),
        LocalFunctionStatementSyntax m => Of(m.Identifier, m.Body, m.ExpressionBody, IsVoid(m.ReturnType, m.Modifiers), m.SemicolonToken),
        ConstructorDeclarationSyntax c => Of(c.Identifier, c.Body, c.ExpressionBody, true, c.SemicolonToken),
        PropertyDeclarationSyntax { ExpressionBody: { } arrow } p => [new(p.Identifier.ValueText, arrow, null, arrow, "get{", "}", false, p.SemicolonToken)],
        AccessorDeclarationSyntax { Parent.Parent: PropertyDeclarationSyntax p } a => Of(p.Identifier, a.Body, a.ExpressionBody,
            !a.IsKind(SyntaxKind.GetAccessorDeclaration), a.SemicolonToken),
        VariableDeclaratorSyntax { Initializer.Value: AnonymousFunctionExpressionSyntax lambda } v => [new(v.Identifier.ValueText, lambda.Body, lambda.Block,
            null, "", "", false, default)],
        AssignmentExpressionSyntax { Left: IdentifierNameSyntax name, Right: AnonymousFunctionExpressionSyntax lambda } =>
            [new(name.Identifier.ValueText, lambda.Body, lambda.Block, null, "", "", false, default)],
        _ => [],
    };

    private static IEnumerable<Function> Of(SyntaxToken name, BlockSyntax? block, ArrowExpressionClauseSyntax? arrow, bool isVoid, SyntaxToken semicolon) =>
        block is null && arrow is null ? [] : [new Function(name.ValueText, (SyntaxNode?)block ?? arrow!, block, arrow, "", "", isVoid, semicolon)];

    private static bool IsVoid(TypeSyntax type, SyntaxTokenList modifiers) =>
        type is PredefinedTypeSyntax { Keyword.RawKind: (int)SyntaxKind.VoidKeyword }
            || modifiers.Any(SyntaxKind.AsyncKeyword) && type is not GenericNameSyntax and not QualifiedNameSyntax { Right: GenericNameSyntax };

    private static bool Reaches(Dictionary<string, HashSet<string>> calls, string name)
    {
        HashSet<string> seen = [];
        Queue<string> open = new(calls[name]);
        while (open.TryDequeue(out var next))
        {
            if (next == name) return true;
            if (!seen.Add(next)) continue;
            foreach (var further in calls[next]) open.Enqueue(further);
        }
        return false;
    }

    private static IEnumerable<Edit> Edits(Function f, Func<AnonymousFunctionExpressionSyntax, bool> isVoid)
    {
        if (f.Block is { OpenBraceToken.IsMissing: false } block)
        {
            yield return new Edit(block.OpenBraceToken.Span.End, f.Guard);
        }
        else if (f is { Arrow: { } arrow, Semicolon: { IsMissing: false, Span.Length: > 0 } })
        {
            // `=> x;` becomes `{ check; return x; }`, on the same line.
            var give = f.Void || arrow.Expression is ThrowExpressionSyntax ? "" : "return ";
            yield return new Edit(arrow.ArrowToken.SpanStart, "{" + f.Before + f.Guard + give, arrow.ArrowToken.Span.Length);
            yield return new Edit(f.Semicolon.Span.End, "}" + f.After);
        }
        else if (f.Body is ExpressionSyntax { Parent: AnonymousFunctionExpressionSyntax lambda } expression)
        {
            yield return new Edit(expression.SpanStart, "{" + f.Guard + (isVoid(lambda) ? "" : "return "));
            yield return new Edit(expression.Span.End, ";}");
        }
    }
}
