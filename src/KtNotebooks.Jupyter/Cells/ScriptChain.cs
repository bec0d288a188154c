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

/// <summary>A compiled cell that has not run yet.</summary>
internal sealed record Submission(CSharpCompilation Compilation, Assembly Assembly, Func<object?[], Task<object?>> Start, bool HasValue);

/// <summary>
/// The chain of cells as the C# compiler sees it: every cell is a script submission whose declarations the next ones see.
/// This uses the compiler's own script support directly rather than the scripting library: the array of submission objects is ours,
/// so the variables of a cell that failed or was interrupted half-way are kept, with the values they had.
/// References and imports are given to the first submission only, and inherited: with them on each one, 300 cells take 1.7 GB.
/// </summary>
internal sealed class ScriptChain
{
    private static readonly CSharpParseOptions Parse = new(LanguageVersion.CSharp14, DocumentationMode.None, SourceCodeKind.Script);
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

    internal static SyntaxTree Tree(string code, string label = "") => CSharpSyntaxTree.ParseText(SourceText.From(code, Encoding.UTF8), Parse, label);

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
            sourceReferenceResolver: new SourceFileResolver([], Environment.CurrentDirectory),
            assemblyIdentityComparer: DesktopAssemblyIdentityComparer.Default,
            nullableContextOptions: NullableContextOptions.Annotations);
        return CSharpCompilation.CreateScriptCompilation(
            $"kt-cell-{number}", tree, first ? Framework.References().Concat(references ?? []) : references, options, _last, typeof(object));
    }

    internal Submission Compile(string code, string label, IEnumerable<MetadataReference>? references = null)
    {
        var written = Tree(code, label);
        var tree = Tree(LoopPolls.Insert(code, written.GetRoot()), label);
        var compilation = Follow(tree, references);
        using var peStream = new MemoryStream();
        using var pdbStream = new MemoryStream();
        var emitted = compilation.Emit(peStream, pdbStream, options: new EmitOptions(debugInformationFormat: DebugInformationFormat.PortablePdb));
        if (!emitted.Success)
        {
            // Positions are those of the code as written, so it is that which is asked for its errors.
            throw new CompilationFailedException(label, code, [.. Follow(written, references).GetDiagnostics().Where(d => d.Severity == DiagnosticSeverity.Error).OrderBy(d => d.Location.SourceSpan.Start)]);
        }
        peStream.Position = pdbStream.Position = 0;
        var assembly = _loader.LoadFromStream(peStream, pdbStream);
        var entry = compilation.GetEntryPoint(CancellationToken.None)!;
        var start = assembly.GetType(entry.ContainingType.MetadataName)!.GetMethod(entry.MetadataName, BindingFlags.Static | BindingFlags.Public | BindingFlags.NonPublic)!;
        return new Submission(compilation, assembly, start.CreateDelegate<Func<object?[], Task<object?>>>(), HasValue(compilation, tree));
    }

    /// <summary>Starts the cell; call <see cref="Adopt"/> afterwards, also when it failed.</summary>
    internal Task<object?> Start(Submission submission)
    {
        if (_adopted + 2 > _submissions.Length) Array.Resize(ref _submissions, 2 * _submissions.Length);
        return submission.Start(_submissions);
    }

    /// <summary>Makes the cell's declarations visible to the next ones.</summary>
    /// <returns>The object whose fields are the cell's variables; null if the cell did not get so far as to have one.</returns>
    internal object? Adopt(Submission submission)
    {
        var state = Array.Find(_submissions, s => s?.GetType().Assembly == submission.Assembly);
        var onlyUsings = submission.Compilation.SyntaxTrees[0].GetCompilationUnitRoot().Members.Count == 0;
        if (state is null && !onlyUsings) return null;
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
