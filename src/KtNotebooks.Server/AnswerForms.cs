using KtNotebooks.Data;
using KtNotebooks.Generation;
using KtNotebooks.Generation.Grammars;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Server;

/// <summary>Which form a request gives its answers: JSON, a schema's, a call of a tool, or none.</summary>
internal sealed class AnswerForms(Tokenizer tokenizer)
{
    private readonly AnswerGrammars _grammars = new(tokenizer);

    /// <exception cref="ApiException">A schema that is none, or has something that is not known here.</exception>
    public AnswerGrammar? Of(ModelRequest request, IReadOnlyList<Tool> tools, CallSpelling? spelling, Thinking? thinks)
    {
        try
        {
            if (spelling is not null && request.Choice == ToolChoice.Required)
            {
                var named = request.ToolName is null ? tools : [.. tools.Where(t => t.Name == request.ToolName)];
                return _grammars.Calls(spelling, Schemas(named), required: true, request.ParallelCalls, thinks);
            }
            if (spelling is not null && (request.Json || request.Schema is not null))
                return _grammars.JsonOrCalls(request.Schema, spelling, Schemas(tools), request.ParallelCalls, thinks);
            if (spelling is not null && tools.FirstOrDefault(t => t.Strict) is { } strict)
            {
                if (spelling.Begin.Length == 0) // nothing tells a call from text until it is there
                    throw ApiException.Unsupported("strict", $"'{strict.Name}' may be called in this template's form, but a call cannot be held to its schema");
                return _grammars.Calls(spelling, Schemas(tools), required: false, request.ParallelCalls, thinks);
            }
            if (request.Schema is { } schema) return _grammars.Schema(schema, thinks);
            return request.Json ? _grammars.Json(thinks) : null;
        }
        catch (ArgumentException error)
        {
            throw new ApiException(400, error.Message, request.Schema is null ? "tools" : "response_format", "invalid_json_schema");
        }
    }

    private static List<(string, System.Text.Json.JsonElement)> Schemas(IReadOnlyList<Tool> tools) => [.. tools.Select(t => (t.Name, t.Parameters))];
}
