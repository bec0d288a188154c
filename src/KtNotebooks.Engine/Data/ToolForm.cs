using System.Text;
using System.Text.Json;

namespace KtNotebooks.Data;

/// <summary>How tools are described to a model and how it calls them: LLaMA-Factory's tool formats.</summary>
public abstract record ToolForm
{
    /// <summary>A list in plain English, calls as "Action / Action Input"; upstream uses it for DeepSeek.</summary>
    public static ToolForm Plain { get; } = new PlainForm();

    /// <summary>Qwen's: JSON lines between tools tags, calls as JSON between tool_call tags.</summary>
    public static ToolForm Qwen { get; } = new QwenForm();

    /// <summary>GLM-4's: a preamble in Chinese, a call is the name and a line of JSON.</summary>
    public static ToolForm Glm4 { get; } = new Glm4Form();

    /// <summary>
    /// True when a description holds no tool: nothing, blanks, null, or an empty list or object, however it is spelled. Such a row is told as one without
    /// tools.
    /// </summary>
    public static bool IsNone(string? tools) =>
        tools is null || string.Concat(tools.Where(c => !char.IsWhiteSpace(c)).Take(5)) is "" or "null" or "[]" or "{}" or "\"\"";

    /// <summary>What is added to the system prompt.</summary>
    /// <param name="tools">A JSON list of tools, each {name, description, parameters} or {"type": "function", "function": …}.</param>
    /// <exception cref="InvalidDataException">It is no such list.</exception>
    public string Describe(string tools)
    {
        try
        {
            using var document = JsonDocument.Parse(tools);
            var root = document.RootElement;
            return Describe(root.ValueKind == JsonValueKind.Array ? [.. root.EnumerateArray()] : [root]);
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new InvalidDataException($"the tools are no JSON list of {{name, description, parameters}}: {Short(tools)}", e);
        }
    }

    /// <summary>What an assistant says to call functions.</summary>
    /// <param name="calls">A JSON object {name, arguments} or a list of them.</param>
    /// <exception cref="InvalidDataException">It is no such object.</exception>
    public string Call(string calls)
    {
        try
        {
            using var document = JsonDocument.Parse(calls);
            var root = document.RootElement;
            JsonElement[] all = root.ValueKind == JsonValueKind.Array ? [.. root.EnumerateArray()] : [root];
            return Call([.. all.Select(call => (call.GetProperty("name").GetString()!, Arguments(call.GetProperty("arguments"))))]);
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new InvalidDataException($"a function call is no JSON object {{name, arguments}} or list of them: {Short(calls)}", e);
        }
    }

    protected abstract string Describe(JsonElement[] tools);

    protected abstract string Call((string Name, string Arguments)[] calls);

    // In OpenAI's layout the arguments are JSON in a string.
    private static string Arguments(JsonElement arguments) => arguments.ValueKind == JsonValueKind.String ? arguments.GetString()! : PythonJson.Dump(arguments);

    private static JsonElement Bare(JsonElement tool) =>
        tool.TryGetProperty("type", out var type) && type.ValueKind == JsonValueKind.String && type.GetString() == "function" ? tool.GetProperty("function")
            : tool;

    private static string Text(JsonElement json, string name) => json.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String
        ? value.GetString()! : "";

    private static string Short(string text) => text.Length <= 120 ? text : text[..120] + "…";

    private sealed record PlainForm : ToolForm
    {
        protected override string Describe(JsonElement[] tools)
        {
            var list = new StringBuilder();
            foreach (var tool in tools.Select(Bare))
            {
                list.Append($"> Tool Name: {tool.GetProperty("name").GetString()}\nTool Description: {Text(tool, "description")}\nTool Args:\n");
                var parameters = tool.GetProperty("parameters");
                var required = parameters.TryGetProperty("required", out var names) ? names : default;
                if (required.ValueKind is not (JsonValueKind.Undefined or JsonValueKind.Null or JsonValueKind.Array))
                    throw new InvalidDataException($"'required' of the tool '{Text(tool, "name")}' must be a list of names, but is "
                        + Short(required.GetRawText()));
                var listed = parameters.GetProperty("properties");
                if (!listed.EnumerateObject().Any() && parameters.EnumerateObject().Select(p => p.Name)
                    .FirstOrDefault(name => name is "anyOf" or "oneOf" or "allOf" or "patternProperties") is { } other)
                    throw new InvalidDataException($"the tool '{Text(tool, "name")}' cannot be told in this template's form, a list of its properties: its "
                        + $"parameters have none, but {other}");
                foreach (var parameter in listed.EnumerateObject())
                    list.Append(Parameter(parameter.Name, parameter.Value, required.ValueKind == JsonValueKind.Array
                        && required.EnumerateArray().Any(n => n.ValueKind == JsonValueKind.String && n.GetString() == parameter.Name), Text(tool, "name")));
                list.Append('\n');
            }
            return "You have access to the following tools:\n" + list + "Use the following format if using a tool:\n```\n"
                + $"Action: tool name (one of [{string.Join(", ", tools.Select(t => Bare(t).GetProperty("name").GetString()))}])\n"
                + "Action Input: the input to the tool, in a JSON format representing the kwargs (e.g. ```{\"input\": \"hello world\", \"num_beams\": "
                + "5}```)\n```\n";
        }

        protected override string Call((string Name, string Arguments)[] calls) =>
            string.Join('\n', calls.Select(c => $"Action: {c.Name}\nAction Input: {c.Arguments}"));

        private static string Parameter(string name, JsonElement about, bool required, string tool)
        {
            if (about.ValueKind == JsonValueKind.True) return $"  - {name} (any{(required ? ", required" : "")}): \n"; // JSON Schema: whatever one likes
            if (about.ValueKind != JsonValueKind.Object)
                throw new InvalidDataException($"the property '{name}' of the tool '{tool}' must be a JSON Schema, an object, but is "
                    + Short(about.GetRawText()));
            var choices = about.TryGetProperty("enum", out var values) && values.ValueKind == JsonValueKind.Array && values.GetArrayLength() > 0
                ? $", should be one of [{string.Join(", ", values.EnumerateArray().Select(v => v.ToString()))}]" : "";
            var items = about.TryGetProperty("items", out var item) && item.ValueKind == JsonValueKind.Object && item.EnumerateObject().Any()
                ? $", where each item should be {Text(item, "type")}" : "";
            return $"  - {name} ({Text(about, "type")}{(required ? ", required" : "")}): {Text(about, "description")}{choices}{items}\n";
        }
    }

    private sealed record QwenForm : ToolForm
    {
        protected override string Describe(JsonElement[] tools) =>
            "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within "
                + "<tools></tools> XML tags:\n<tools>"
            + string.Concat(tools.Select(tool =>
                "\n" + (Text(tool, "type") == "function" ? PythonJson.Dump(tool) : $"{{\"type\": \"function\", \"function\": {PythonJson.Dump(tool)}}}")))
            + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML "
            + "tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

        protected override string Call((string Name, string Arguments)[] calls) =>
            string.Join('\n', calls.Select(c => $"<tool_call>\n{{\"name\": {PythonJson.Quote(c.Name)}, \"arguments\": {c.Arguments}}}\n</tool_call>"));
    }

    private sealed record Glm4Form : ToolForm
    {
        protected override string Describe(JsonElement[] tools) =>
            "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
            + string.Concat(tools.Select(Bare)
            .Select(tool => $"\n\n## {tool.GetProperty("name").GetString()}\n\n{PythonJson.Dump(tool, indent: 4)}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"));

        protected override string Call((string Name, string Arguments)[] calls) => calls is [var call]
            ? $"{call.Name}\n{call.Arguments}"
            : throw new InvalidDataException($"GLM-4 calls one function at a time, but a message holds {calls.Length} calls");
    }
}
