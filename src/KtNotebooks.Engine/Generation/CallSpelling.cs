using System.Text.Json;
using System.Text.RegularExpressions;

using KtNotebooks.Data;

namespace KtNotebooks.Generation;

/// <summary>
/// How a template's models spell a call of a tool, for reading calls from an answer and for making an answer be one: begin, name, between, arguments, end.
/// The same spellings that <see cref="ToolForm.Call(string)"/> writes.
/// </summary>
public abstract partial class CallSpelling
{
    private CallSpelling()
    {
    }

    /// <summary>What a call begins with.</summary>
    public abstract string Begin { get; }

    /// <summary>What stands before the name, before the arguments and after them, in a call that is spelled here.</summary>
    public abstract (string Name, string Arguments, string End) Marks { get; }

    /// <summary>What stands between two calls; null: an answer has one at most.</summary>
    public abstract string? Separator { get; }

    /// <summary>The spelling of a form.</summary>
    /// <param name="form">Of the template.</param>
    /// <param name="names">The tools that there are.</param>
    public static CallSpelling Of(ToolForm form, IReadOnlyList<string> names) =>
        form == ToolForm.Qwen ? new Tagged(names) : form == ToolForm.Glm4 ? new NameLine(names) : new Action(names);

    /// <summary>Where a call begins in a text; −1: nowhere yet, and the last <paramref name="held"/> characters may become one.</summary>
    public virtual int Find(string text, bool last, out int held)
    {
        ArgumentNullException.ThrowIfNull(text);
        var at = text.IndexOf(Begin, StringComparison.Ordinal);
        held = at >= 0 || last ? 0 : Overlap(text, Begin);
        return at;
    }

    /// <summary>
    /// Reads the call that a text begins with. False: more must come. True without a call: it is none, and stays text.
    /// </summary>
    public abstract bool TryRead(string text, bool last, out (string Name, string Arguments)? call, out string rest);

    /// <summary>How many characters at the end of a text are the beginning of a mark.</summary>
    public static int Overlap(string text, string mark)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentNullException.ThrowIfNull(mark);
        for (var n = Math.Min(mark.Length - 1, text.Length); n > 0; n--)
            if (text.AsSpan(text.Length - n).SequenceEqual(mark.AsSpan(0, n))) return n;
        return 0;
    }

    /// <summary>The JSON value that a text is, written compactly; null: it is none.</summary>
    private static string? Json(string text)
    {
        try
        {
            using var document = JsonDocument.Parse(text);
            return document.RootElement.ValueKind == JsonValueKind.Object ? document.RootElement.GetRawText().Trim() : null;
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>Qwen's: a JSON object between tags.</summary>
    private sealed class Tagged(IReadOnlyList<string> names) : CallSpelling
    {
        private const string Close = "</tool_call>";

        public override string Begin => "<tool_call>";

        public override (string Name, string Arguments, string End) Marks => ("<tool_call>\n{\"name\": \"", "\", \"arguments\": ", "}\n</tool_call>");

        public override string? Separator => "\n";

        public override bool TryRead(string text, bool last, out (string Name, string Arguments)? call, out string rest)
        {
            (call, rest) = (null, "");
            var end = text.IndexOf(Close, StringComparison.Ordinal);
            if (end < 0 && !last) return false;
            var body = text[Begin.Length..(end < 0 ? text.Length : end)];
            try
            {
                using var document = JsonDocument.Parse(body);
                var root = document.RootElement;
                if (root.ValueKind == JsonValueKind.Object && root.TryGetProperty("name", out var name) && name.ValueKind == JsonValueKind.String
                    && names.Contains(name.GetString()!) && root.TryGetProperty("arguments", out var arguments))
                    call = (name.GetString()!, arguments.ValueKind == JsonValueKind.String ? arguments.GetString()! : arguments.GetRawText());
            }
            catch (Exception error) when (error is JsonException or InvalidOperationException)
            {
                return true;
            }
            rest = end < 0 ? "" : text[(end + Close.Length)..];
            return true;
        }
    }

    /// <summary>The plain one: a line with the name and one with the arguments.</summary>
    private sealed partial class Action(IReadOnlyList<string> names) : CallSpelling
    {
        public override string Begin => "Action:";

        public override (string Name, string Arguments, string End) Marks => ("Action: ", "\nAction Input: ", "");

        public override string? Separator => "\n";

        public override bool TryRead(string text, bool last, out (string Name, string Arguments)? call, out string rest)
        {
            (call, rest) = (null, "");
            var next = text.IndexOf("\nAction:", Begin.Length, StringComparison.Ordinal);
            if (next < 0 && !last && Complete(text) is not { } whole) return false;
            var end = next >= 0 ? next : Complete(text) ?? text.Length;
            if (Form().Match(text[..end]) is { Success: true } match && names.Contains(match.Groups[1].Value)
                && Json(match.Groups[2].Value.Trim().Trim('`', '"')) is { } arguments)
                (call, rest) = ((match.Groups[1].Value, arguments), text[end..]);
            return true;
        }

        /// <summary>The end of the first whole JSON object after the second mark; null: not yet.</summary>
        private static int? Complete(string text)
        {
            var input = text.IndexOf("Action Input:", StringComparison.Ordinal);
            var open = input < 0 ? -1 : text.IndexOf('{', input);
            if (open < 0) return null;
            var (depth, quoted) = (0, false);
            for (var i = open; i < text.Length; i++)
            {
                if (quoted && text[i] == '\\') i++;
                else if (text[i] == '"') quoted = !quoted;
                else if (!quoted && text[i] == '{') depth++;
                else if (!quoted && text[i] == '}' && --depth == 0) return i + 1;
            }
            return null;
        }

        [GeneratedRegex(@"^Action:\s*([\w.-]+)\s*Action Input:\s*(.+?)\s*$", RegexOptions.Singleline)]
        private static partial Regex Form();
    }

    /// <summary>GLM-4's: the name is the first line, the rest is JSON.</summary>
    private sealed class NameLine(IReadOnlyList<string> names) : CallSpelling
    {
        private bool _begun;

        public override string Begin => "";

        public override (string Name, string Arguments, string End) Marks => ("", "\n", "");

        public override string? Separator => null;

        public override int Find(string text, bool last, out int held)
        {
            ArgumentNullException.ThrowIfNull(text);
            held = 0;
            if (_begun) return -1;
            var line = text.TrimStart('\n');
            var end = line.IndexOf('\n', StringComparison.Ordinal);
            if (end < 0 && !last && (line.Length == 0 || names.Any(n => n.StartsWith(line, StringComparison.Ordinal))))
            {
                held = text.Length;
                return -1;
            }
            _begun = true;
            return end > 0 && names.Contains(line[..end]) ? text.Length - line.Length : -1;
        }

        public override bool TryRead(string text, bool last, out (string Name, string Arguments)? call, out string rest)
        {
            (call, rest) = (null, "");
            if (!last) return false;
            var end = text.IndexOf('\n', StringComparison.Ordinal);
            if (Json(text[(end + 1)..].Trim()) is { } arguments) call = (text[..end], arguments);
            return true;
        }
    }
}
