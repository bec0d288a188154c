using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace KtNotebooks.Jupyter.Cells;

internal readonly record struct Completion(string Text, string Kind);

/// <summary>What can stand at the cursor, from the names that the compiler sees there.</summary>
internal static class Completions
{
    private static readonly string[] Keywords =
        [.. SyntaxFacts.GetKeywordKinds().Select(SyntaxFacts.GetText),
            .. (string[])["var", "await", "async", "record", "yield", "nameof", "when", "with", "required"]];

    private static readonly string[] Magics =
        ["about", "debug", "help", "import", "keep-old", "lsmagic", "release", "set", "share", "time", "value", "who", "whos"];

    /// <param name="session">The session; waited for until its compiler is warm.</param>
    /// <param name="code">The whole cell.</param>
    /// <param name="cursor">In UTF-16 units.</param>
    /// <returns>Where the completed word starts, in UTF-16 units, and the names, sorted.</returns>
    internal static (int Start, List<Completion> Names) At(CSharpSession session, string code, int cursor)
    {
        var start = cursor;
        while (start > 0 && SyntaxFacts.IsIdentifierPartCharacter(code[start - 1])) start--;
        var prefix = code[start..cursor];
        if (start >= 2 && code[(start - 2)..start] == "#!" && (start == 2 || code[start - 3] == '\n'))
        {
            return (start, [.. Magics.Where(m => m.StartsWith(prefix, StringComparison.Ordinal)).Select(m => new Completion(m, "magic"))]);
        }
        var chain = session.ReadyChain();

        var tree = ScriptChain.Tree(CellSource.Split(code).Code);
        var root = tree.GetRoot();
        var model = chain.Follow(tree).GetSemanticModel(tree, ignoreAccessibility: false);
        var token = start == 0 ? default : root.FindToken(start - 1);
        if (IsText(token, cursor) || root.FindTrivia(start).Kind() is SyntaxKind.SingleLineCommentTrivia or SyntaxKind.MultiLineCommentTrivia)
            return (start, []);

        var names = Member(token) is { } left ? Members(model, left, start) : Anything(model, start);
        return (start, [.. names.Where(n => n.Text.StartsWith(prefix, StringComparison.OrdinalIgnoreCase)).DistinctBy(n => n.Text)
            .OrderBy(n => n.Text, StringComparer.OrdinalIgnoreCase)]);
    }

    private static bool IsText(SyntaxToken token, int cursor) =>
        token.Kind() is SyntaxKind.StringLiteralToken or SyntaxKind.InterpolatedStringTextToken or SyntaxKind.CharacterLiteralToken
            or SyntaxKind.SingleLineRawStringLiteralToken
            or SyntaxKind.MultiLineRawStringLiteralToken && cursor > token.SpanStart && cursor <= token.Span.End;

    /// <returns>What stands left of the dot that the token is; null if it is none.</returns>
    private static ExpressionSyntax? Member(SyntaxToken token) => !token.IsKind(SyntaxKind.DotToken) ? null : token.Parent switch
    {
        MemberAccessExpressionSyntax access => access.Expression,
        QualifiedNameSyntax name => name.Left,
        MemberBindingExpressionSyntax { Parent: var parent } => parent?.AncestorsAndSelf().OfType<ConditionalAccessExpressionSyntax>()
            .FirstOrDefault()?.Expression,
        _ => null,
    };

    private static IEnumerable<Completion> Members(SemanticModel model, ExpressionSyntax left, int position)
    {
        var symbol = model.GetSymbolInfo(left) is { Symbol: var exact, CandidateSymbols: var candidates } ? exact ?? candidates.FirstOrDefault() : null;
        if (symbol is INamespaceSymbol space) return space.GetMembers().Where(m => m.CanBeReferencedByName).Select(Describe);
        if (symbol is ITypeSymbol type && left is not ThisExpressionSyntax)
        {
            return model.LookupSymbols(position, type).Where(s => s.IsStatic || s is ITypeSymbol || s is IFieldSymbol { IsConst: true }).Select(Describe);
        }
        var value = model.GetTypeInfo(left).Type;
        if (value is null or IErrorTypeSymbol) return [];
        return model.LookupSymbols(position, value, includeReducedExtensionMethods: true)
            .Where(s => !s.IsStatic && s is not ITypeSymbol && s.CanBeReferencedByName).Select(Describe);
    }

    private static IEnumerable<Completion> Anything(SemanticModel model, int position) =>
    [
        .. model.LookupSymbols(position).Where(s => s.CanBeReferencedByName && !s.Name.StartsWith('<')).Select(Describe),
        .. Keywords.Select(k => new Completion(k, "keyword")),
    ];

    private static Completion Describe(ISymbol symbol) => new(symbol.Name, symbol.Kind switch
    {
        SymbolKind.NamedType => "class",
        SymbolKind.Method => "function",
        SymbolKind.Namespace => "module",
        SymbolKind.Property or SymbolKind.Event => "property",
        _ => "instance",
    });
}
