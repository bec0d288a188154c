using System.Collections.Concurrent;
using System.Text.RegularExpressions;
using System.Xml.Linq;

using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>What a name means: its declaration as C# and the summary of its documentation.</summary>
internal static partial class Inspection
{
    private static readonly SymbolDisplayFormat Format = SymbolDisplayFormat.MinimallyQualifiedFormat
        .WithMemberOptions(
            SymbolDisplayMemberOptions.IncludeParameters | SymbolDisplayMemberOptions.IncludeType
                | SymbolDisplayMemberOptions.IncludeContainingType | SymbolDisplayMemberOptions.IncludeRef)
        .WithKindOptions(SymbolDisplayKindOptions.IncludeTypeKeyword | SymbolDisplayKindOptions.IncludeNamespaceKeyword);

    private static readonly ConcurrentDictionary<string, Dictionary<string, XElement>> Documents = new();

    internal static (string Plain, string Markdown)? At(CSharpSession session, string code, int cursor)
    {
        if (code.Length == 0) return null;
        var chain = session.ReadyChain();
        var tree = ScriptChain.Tree(CellSource.Split(code).Code);
        var model = chain.Follow(tree).GetSemanticModel(tree);
        var root = tree.GetRoot();
        if (NameAt(root, cursor) is not { } node) return null;
        // Of `new T(` the constructors are wanted, not the type.
        if (node.Parent is ObjectCreationExpressionSyntax { ArgumentList.OpenParenToken: var bracket } made && made.Type == node && cursor >= bracket.Span.End)
            node = made;
        var info = model.GetSymbolInfo(node);
        var symbols = info.Symbol is { } one ? [one]
            : info.CandidateSymbols.AddRange(model.GetMemberGroup(node)).Distinct(SymbolEqualityComparer.Default).OfType<ISymbol>().ToArray();
        if (symbols.Length == 0 && model.GetDeclaredSymbol(node) is { } declared) symbols = [declared];
        if (symbols.Length == 0) return null;
        var lines = symbols.Take(10).Select(s => s.ToDisplayString(Format)).Distinct().ToArray();
        var summary = symbols.Select(Summary).FirstOrDefault(s => s is not null) ?? "";
        return ($"{string.Join('\n', lines)}\n\n{summary}".TrimEnd(), $"```csharp\n{string.Join('\n', lines)}\n```\n\n{summary}".TrimEnd());
    }

    /// <summary>The name that the cursor stands behind, in, or behind the bracket of; between the arguments of a call what is called.</summary>
    private static SyntaxNode? NameAt(SyntaxNode root, int cursor)
    {
        var end = root.FullSpan.End;
        var token = new[] { cursor, cursor - 1, cursor - 2 }.Where(p => p >= 0 && p < end).Select(p => root.FindToken(p))
            .FirstOrDefault(t => t.IsKind(SyntaxKind.IdentifierToken) && cursor - 2 < t.Span.End && t.SpanStart <= cursor);
        if (token.Parent is { } name) return name;
        if (end == 0) return null;
        var arguments = root.FindToken(Math.Clamp(cursor - 1, 0, end - 1)).Parent?.AncestorsAndSelf().OfType<ArgumentListSyntax>()
            .FirstOrDefault(l => l.OpenParenToken.Span.End <= cursor && (l.CloseParenToken.IsMissing || cursor <= l.CloseParenToken.SpanStart));
        return arguments?.Parent switch
        {
            InvocationExpressionSyntax { Expression: MemberAccessExpressionSyntax access } => access.Name,
            InvocationExpressionSyntax call => call.Expression,
            ObjectCreationExpressionSyntax made => made.Type,
            var other => other,
        };
    }

    private static string? Summary(ISymbol symbol)
    {
        if (symbol.OriginalDefinition.GetDocumentationCommentId() is not { } id || symbol.ContainingAssembly is null) return null;
        foreach (var path in DocumentsOf(symbol.ContainingAssembly.Name))
        {
            if (Documents.GetOrAdd(path, Load).TryGetValue(id, out var member) && member.Element("summary") is { } summary) return Text(summary);
        }
        return null;
    }

    /// <summary>
    /// The file beside the engine's assembly; for the framework those of the SDK's reference pack. The framework's code lives in private
    /// assemblies, its documentation is filed under the public ones.
    /// </summary>
    private static IEnumerable<string> DocumentsOf(string assembly)
    {
        var own = Path.Combine(AppContext.BaseDirectory, assembly + ".xml");
        if (File.Exists(own)) return [own];
        var runtime = new DirectoryInfo(System.Runtime.InteropServices.RuntimeEnvironment.GetRuntimeDirectory());
        var packs = Path.Combine(runtime.Parent!.Parent!.Parent!.FullName, "packs", "Microsoft.NETCore.App.Ref");
        if (!Directory.Exists(packs)) return [];
        var folder = Directory.EnumerateDirectories(packs).Order(StringComparer.Ordinal).LastOrDefault();
        var reference = folder is null ? null : Path.Combine(folder, "ref", $"net{Environment.Version.ToString(2)}");
        if (reference is null || !Directory.Exists(reference)) return [];
        string[] first = [$"{assembly}.xml", "System.Runtime.xml", "System.Collections.xml", "System.Linq.xml", "System.Console.xml", "System.Threading.xml"];
        return first.Select(f => Path.Combine(reference, f)).Where(File.Exists);
    }

    private static Dictionary<string, XElement> Load(string path) =>
        XDocument.Load(path).Descendants("member").Where(m => m.Attribute("name") is not null).GroupBy(m => m.Attribute("name")!.Value)
            .ToDictionary(g => g.Key, g => g.First());

    private static string Text(XElement summary)
    {
        foreach (var reference in summary.Descendants()
            .Where(e => e.Attribute("cref") is not null || e.Attribute("langword") is not null || e.Attribute("name") is not null).ToArray())
        {
            var name = (reference.Attribute("cref") ?? reference.Attribute("langword") ?? reference.Attribute("name"))!.Value;
            if (reference.IsEmpty) reference.Value = name[(name.LastIndexOfAny(['.', ':']) + 1)..];
        }
        return Blanks().Replace(summary.Value, " ").Trim();
    }

    [GeneratedRegex(@"\s+")] private static partial Regex Blanks();
}
