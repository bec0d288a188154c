using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>
/// The outputs of a whole notebook while it runs: display ids with the outputs that show them (an update from a later cell changes the output of the
/// earlier one), and every cell's output, because background work may write into it until the end.
/// </summary>
internal sealed class Displays
{
    private readonly Dictionary<string, List<JsonObject>> _shown = [];
    private readonly List<NotebookOutput> _cells = [];

    /// <summary>Taken by whoever changes an output.</summary>
    internal Lock Gate { get; } = new();

    internal void Add(NotebookOutput cell)
    {
        lock (Gate) _cells.Add(cell);
    }

    internal void Add(string displayId, JsonObject output)
    {
        if (!_shown.TryGetValue(displayId, out var outputs)) _shown[displayId] = outputs = [];
        outputs.Add(output);
    }

    internal IReadOnlyList<JsonObject> With(string displayId) => _shown.GetValueOrDefault(displayId) ?? [];

    /// <summary>Runs an action in which all outputs are valid and nothing changes them; what comes later is too late.</summary>
    internal void Settle(Action action)
    {
        lock (Gate)
        {
            foreach (var cell in _cells) cell.Close();
            action();
        }
    }
}
