using System.Reflection;
using System.Text;

using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Emit;
using Microsoft.CodeAnalysis.Text;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>The code has errors; nothing of it ran.</summary>
internal sealed class CompilationFailedException(string label, string code, IReadOnlyList<Diagnostic> errors) : Exception(errors[0].GetMessage())
{
    public string Label { get; } = label;
    public string Code { get; } = code;
    public IReadOnlyList<Diagnostic> Errors { get; } = errors;
}

/// <summary>
/// A compiled cell that has not run yet. <paramref name="Code"/> is null where there is nothing to run: usings, comments, directives.
/// <paramref name="Woven"/> is what was added to the cell's own code.
/// </summary>
internal sealed record Submission(CSharpCompilation Compilation, SubmissionCode? Code, bool HasValue, IReadOnlyList<Edit> Woven);

internal sealed record SubmissionCode(Assembly Assembly, Func<object?[], Task<object?>> Start)
{
    /// <summary>Whether the next code sees its declarations.</summary>
    public bool Adopted { get; set; }
}

/// <summary>
/// The chain of cells as the C# compiler sees it: every cell is a script submission whose declarations the next ones see.
/// This uses the compiler's own script support directly rather than the scripting library: the array of submission objects is ours,
/// so the variables of a cell that failed or was interrupted half-way are kept, with the values they had.
/// References and imports are given to the first submission only, and inherited: with them on each one, 300 cells take 1.7 GB.
/// </summary>
internal sealed class ScriptChain
{
    internal static readonly CSharpParseOptions Options = new(LanguageVersion.CSharp14, DocumentationMode.None, SourceCodeKind.Script);
    private readonly CellLoadContext _loader;
    private volatile CSharpCompilation? _last;
    private object?[] _submissions = new object?[64];
    private int _compiled;
    private int _adopted;

    internal ScriptChain(CellLoadContext loader) => _loader = loader;

    /// <summary>Release by default: hot functions run at the speed of a compiled program. Code at top level does not; see `#!help`.</summary>
    internal OptimizationLevel Optimization { get; set; } = OptimizationLevel.Release;

    /// <summary>The newest cell, for completion and inspection; null until the chain is ready.</summary>
    internal CSharpCompilation? Last => _last;

    internal static SyntaxTree Tree(string code, string label = "") => CSharpSyntaxTree.ParseText(SourceText.From(code, Encoding.UTF8), Options, label);

    /// <summary>A compilation that follows the newest cell, without being part of the chain.</summary>
    internal CSharpCompilation Follow(SyntaxTree tree, IEnumerable<MetadataReference>? references = null)
    {
        var number = Interlocked.Increment(ref _compiled);
        var first = _last is null;
        var options = new CSharpCompilationOptions(
            OutputKind.DynamicallyLinkedLibrary,
            scriptClassName: $"Submission#{number}",
            usings: first ? Framework.Imports() : null,
            optimizationLevel: Optimization,
            allowUnsafe: true,
            concurrentBuild: false, // a cell is small, and the pool's threads have small stacks, which may be full of the cell's own tasks
            sourceReferenceResolver: new SourceFileResolver([], WorkingFolder.Path),
            assemblyIdentityComparer: DesktopAssemblyIdentityComparer.Default,
            nullableContextOptions: NullableContextOptions.Annotations);
        return CSharpCompilation.CreateScriptCompilation(
            $"kt-cell-{number}", tree, first ? Framework.References().Concat(references ?? []) : references, options, _last, typeof(object));
    }

    /// <exception cref="CompilationFailedException">The code has errors.</exception>
    /// <exception cref="CodeRefusedException">The code is not given to the compiler.</exception>
    internal Submission Compile(string code, string label, IEnumerable<MetadataReference>? references = null, CancellationToken cancel = default)
    {
        CodeDepth.Check(code, label);
        var written = Tree(code, label);
        var root = written.GetRoot(cancel);
        CodeDepth.Check(root, code, label);
        SemanticModel? model = null;
        Edit[] loops = [.. LoopPolls.In(root), .. ConsoleCalls.In(root, Model)], recursion = [.. RecursionGuards.In(root, IsVoid)];
        // Who returns what is guessed from the text: where the guess is wrong, the code is compiled without it.
        var submission = Emit(Woven(loops.Concat(recursion))) ?? (recursion.Length > 0 ? Emit(Woven(loops)) : null);
        if (submission is not null) return submission;
        // Positions are those of the code as written, so it is that which is asked for its errors.
        var errors = Follow(written, references).GetDiagnostics(cancel).Where(d => d.Severity == DiagnosticSeverity.Error)
            .OrderBy(d => d.Location.SourceSpan.Start).ToArray();
        throw errors.Length > 0 ? new CompilationFailedException(label, code, errors)
            : new CodeRefusedException($"{label}: the compiler makes nothing of this code and does not say why");

        Submission? Emit(Edit[] woven)
        {
            var tree = Tree(CellText.Weave(code, woven), label);
            var compilation = Follow(tree, references);
            // The compiler emits nothing for a tree without members, and calls that a failure; its usings and references count all the same.
            if (compilation.SyntaxTrees.All(t => t.GetCompilationUnitRoot(cancel).Members.Count == 0))
            {
                return compilation.GetDiagnostics(cancel).Any(d => d.Severity == DiagnosticSeverity.Error) ? null
                    : new Submission(compilation, null, false, woven);
            }
            using var peStream = new MemoryStream();
            using var pdbStream = new MemoryStream();
            var emitted = compilation.Emit(peStream, pdbStream, options: new EmitOptions(debugInformationFormat: DebugInformationFormat.PortablePdb),
                cancellationToken: cancel);
            if (!emitted.Success) return null;
            peStream.Position = pdbStream.Position = 0;
            var assembly = _loader.LoadFromStream(peStream, pdbStream);
            var entry = compilation.GetEntryPoint(CancellationToken.None)!;
            var start = assembly.GetType(entry.ContainingType.MetadataName)!.GetMethod(entry.MetadataName,
                BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic)!;
            return new Submission(compilation, new SubmissionCode(assembly, start.CreateDelegate<Func<object?[], Task<object?>>>()),
                HasValue(compilation, tree), woven);
        }

        SemanticModel Model() => model ??= Follow(written, references).GetSemanticModel(written);

        bool IsVoid(AnonymousFunctionExpressionSyntax lambda) =>
            Model().GetSymbolInfo(lambda, cancel).Symbol is IMethodSymbol { } method
            && (method.ReturnsVoid || method.IsAsync && method.ReturnType is not INamedTypeSymbol { IsGenericType: true });

        static Edit[] Woven(IEnumerable<Edit> edits) => [.. edits.OrderBy(e => e.Position)];
    }

    /// <summary>Starts the cell; call <see cref="Adopt"/> afterwards, also when it failed.</summary>
    internal Task<object?> Start(Submission submission)
    {
        if (submission.Code is not { } code) return Task.FromResult<object?>(null);
        if (_adopted + 2 > _submissions.Length) Array.Resize(ref _submissions, 2 * _submissions.Length);
        return code.Start(_submissions);
    }

    /// <summary>Makes the cell's declarations visible to the next ones; while it runs, to the code that it sends itself.</summary>
    /// <returns>The object whose fields are the cell's variables; null if the cell did not get so far as to have one, or was adopted before.</returns>
    internal object? Adopt(Submission submission)
    {
        if (submission.Code is not { } code)
        {
            _last = submission.Compilation;
            return null;
        }
        if (code.Adopted || Array.Find(_submissions, s => s?.GetType().Assembly == code.Assembly) is not { } state) return null;
        code.Adopted = true;
        _last = submission.Compilation;
        _adopted++;
        return state;
    }

    /// <summary>A cell has a value when it ends in an expression without a semicolon, unless that is a call of a void method.</summary>
    private static bool HasValue(CSharpCompilation compilation, SyntaxTree tree)
    {
        if (tree.GetCompilationUnitRoot().Members.LastOrDefault() is not GlobalStatementSyntax { Statement: var last }) return false;
        if (last is ReturnStatementSyntax { Expression: not null }) return true;
        if (last is not ExpressionStatementSyntax { SemicolonToken.IsMissing: true } expression) return false;
        return compilation.GetSemanticModel(tree).GetTypeInfo(expression.Expression).Type is not { SpecialType: SpecialType.System_Void };
    }
}
