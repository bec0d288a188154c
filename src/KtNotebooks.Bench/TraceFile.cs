using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Bench;

/// <summary>Something that a card did.</summary>
/// <param name="Lane">compute, bus, waits (of the compute stream for the bus), or host: when work was queued.</param>
/// <param name="What">In words.</param>
/// <param name="FromMs">From the step's begin on.</param>
internal sealed record TraceSpan(string Lane, string What, double FromMs, double ToMs);

/// <summary>
/// When each card computed what in a step, waited or copied, in the form that Perfetto (ui.perfetto.dev) and chrome://tracing open: "Trace Event Format",
/// Google 2016, complete events ("ph": "X") in microseconds; a process a card, a thread a lane.
/// </summary>
internal static class TraceFile
{
    /// <param name="cards">Name and spans of each.</param>
    public static void Write(string path, IEnumerable<(string Name, IReadOnlyList<TraceSpan> Spans)> cards)
    {
        JsonArray events = [];
        foreach (var ((name, spans), process) in cards.Select((c, i) => (c, i)))
        {
            events.Add(new JsonObject { ["ph"] = "M", ["pid"] = process, ["name"] = "process_name", ["args"] = new JsonObject { ["name"] = name } });
            foreach (var span in spans)
                events.Add(new JsonObject
                {
                    ["ph"] = "X",
                    ["pid"] = process,
                    ["tid"] = span.Lane,
                    ["name"] = span.What,
                    ["ts"] = Math.Round(span.FromMs * 1000),
                    ["dur"] = Math.Round((span.ToMs - span.FromMs) * 1000),
                });
        }
        AtomicFile.WriteText(path, new JsonObject { ["traceEvents"] = events }.ToJsonString());
    }
}
