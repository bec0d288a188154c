using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>The inputs of this session. It lives as long as the kernel; its session number is 1.</summary>
internal sealed partial class History
{
    private const int Session = 1;
    private readonly List<(int Line, string Input, string? Output)> _entries = [];

    internal void Add(int line, string input, string? output) => _entries.Add((line, input, output));

    internal JsonObject Reply(Message request)
    {
        IEnumerable<(int Line, string Input, string? Output)> found = _entries;
        var n = request.Number("n", int.MaxValue);
        switch (request.Text("hist_access_type", "tail"))
        {
            case "tail": found = found.TakeLast(n); break;
            case "range":
                var session = request.Number("session", 0);
                var (start, stop) = (request.Number("start", 0), request.Number("stop", int.MaxValue));
                // 0 is the current session, negative numbers are earlier ones.
                found = session is 0 or Session ? found.Where(e => e.Line >= start && e.Line < stop) : [];
                break;
            case "search":
                var glob = Glob(request.Text("pattern", "*"));
                found = found.Where(e => glob.IsMatch(e.Input));
                if (request.Flag("unique", false)) found = found.GroupBy(e => e.Input).Select(g => g.Last());
                found = found.TakeLast(n);
                break;
            default: found = []; break;
        }
        var withOutput = request.Flag("output", false);
        return new JsonObject
        {
            ["status"] = "ok",
            ["history"] = new JsonArray([.. found.Select(e => new JsonArray(Session, e.Line, withOutput ? new JsonArray(e.Input, e.Output) : e.Input))]),
        };
    }

    /// <summary>The patterns of Jupyter's history: * and ?, and a set of characters as in [ab], [a-z] or [!0-9].</summary>
    internal static Regex Glob(string pattern)
    {
        var text = Sets().Replace(Regex.Escape(pattern).Replace("\\*", ".*").Replace("\\?", "."), set =>
            $"[{(set.Groups[1].Length > 0 ? "^" : "")}{Regex.Unescape(set.Groups[2].Value).Replace("\\", "\\\\").Replace("[", "\\[").Replace("^", "\\^")}]");
        try
        {
            return new Regex($"^{text}$", RegexOptions.Singleline | RegexOptions.NonBacktracking);
        }
        catch (ArgumentException)
        {
            return new Regex($"^{Regex.Escape(pattern)}$", RegexOptions.Singleline | RegexOptions.NonBacktracking); // [z-a] is no set
        }
    }

    [GeneratedRegex(@"\\\[(!?)([^\]]+)\]")] private static partial Regex Sets();
}
