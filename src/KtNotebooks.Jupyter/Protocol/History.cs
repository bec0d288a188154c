using System.Text.Json.Nodes;
using System.Text.RegularExpressions;


namespace KtNotebooks.Jupyter.Protocol;

/// <summary>The inputs of this session. It lives as long as the kernel; its session number is 1.</summary>
internal sealed class History
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
                var glob = new Regex("^" + Regex.Escape(request.Text("pattern", "*")).Replace("\\*", ".*").Replace("\\?", ".")
                    + "$", RegexOptions.Singleline | RegexOptions.NonBacktracking);
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
}
