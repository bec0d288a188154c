using System.Text.Json.Nodes;

using KtNotebooks.Jupyter.Cells;
using KtNotebooks.Jupyter.Protocol;

using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;

namespace KtNotebooks.Jupyter;

/// <summary>Completion, inspection and the test whether code is complete, all from the compiler's own view of the session.</summary>
internal sealed class CodeAssistant(CSharpSession session)
{
    internal JsonObject Complete(Message request)
    {
        var code = request.Text("code");
        var cursor = CodePoints.ToUtf16(code, request.Number("cursor_pos", int.MaxValue));
        var (start, names) = CodeDepth.IsReadable(code) ? Completions.At(session, code, cursor) : (cursor, []);
        return new JsonObject
        {
            ["status"] = "ok",
            ["matches"] = new JsonArray([.. names.Select(n => (JsonNode)n.Text)]),
            ["cursor_start"] = CodePoints.FromUtf16(code, start),
            ["cursor_end"] = CodePoints.FromUtf16(code, cursor),
            ["metadata"] = new JsonObject
            {
                ["_jupyter_types_experimental"] = new JsonArray([.. names.Select(n => new JsonObject { ["text"] = n.Text, ["type"] = n.Kind })]),
            },
        };
    }

    internal JsonObject Inspect(Message request)
    {
        var code = request.Text("code");
        var text = CodeDepth.IsReadable(code) ? Inspection.At(session, code, CodePoints.ToUtf16(code, request.Number("cursor_pos", int.MaxValue))) : null;
        return new JsonObject
        {
            ["status"] = "ok",
            ["found"] = text is not null,
            ["data"] = text is null ? new JsonObject() : new JsonObject { ["text/plain"] = text.Value.Plain, ["text/markdown"] = text.Value.Markdown },
            ["metadata"] = new JsonObject(),
        };
    }

    internal static JsonObject IsComplete(string code)
    {
        if (!CodeDepth.IsReadable(code)) return new JsonObject { ["status"] = "unknown" };
        var tree = ScriptChain.Tree(CellSource.Split(code).Code);
        var end = code.TrimEnd().Length;
        var errors = tree.GetDiagnostics().Where(d => d.Severity == DiagnosticSeverity.Error).ToArray();
        // More text can only mend what is wrong at the end, or a comment or string that is still open.
        if (!SyntaxFactory.IsCompleteSubmission(tree) && errors.All(e => e.Location.SourceSpan.End >= end || e.Id is "CS1035" or "CS1039" or "CS8997"))
        {
            var depth = tree.GetRoot().DescendantTokens()
                .Sum(t => t.IsMissing ? 0 : t.IsKind(SyntaxKind.OpenBraceToken) ? 1 : t.IsKind(SyntaxKind.CloseBraceToken) ? -1 : 0);
            return new JsonObject { ["status"] = "incomplete", ["indent"] = new string(' ', 4 * Math.Max(0, depth)) };
        }
        return new JsonObject { ["status"] = errors.Length > 0 ? "invalid" : "complete" };
    }
}
