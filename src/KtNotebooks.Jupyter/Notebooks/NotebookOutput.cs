using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;
using KtNotebooks.Jupyter.Protocol;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>
/// The outputs of one code cell, as nbformat stores them. <paramref name="displays"/> maps display ids of the whole notebook to the
/// outputs that show them: an update from a later cell changes the output of the earlier one.
/// </summary>
internal sealed class NotebookOutput(Dictionary<string, List<JsonObject>> displays) : ICellOutput
{
    private readonly StringBuilder _text = new();
    private JsonObject? _stream;
    private bool _clearNext;

    internal JsonArray Outputs { get; } = [];

    public void Write(string stream, string text)
    {
        lock (displays)
        {
            if (_stream is null || (string)_stream["name"]! != stream)
            {
                Close();
                _stream = new JsonObject { ["output_type"] = "stream", ["name"] = stream };
                Add(_stream);
            }
            _text.Append(text);
        }
    }

    public void Show(MimeBundle bundle, string? displayId)
    {
        lock (displays)
        {
            Close();
            var output = new JsonObject { ["output_type"] = "display_data", ["metadata"] = new JsonObject(), ["data"] = JupyterOutput.Data(bundle) };
            Add(output);
            if (displayId is null) return;
            if (!displays.TryGetValue(displayId, out var shown)) displays[displayId] = shown = [];
            shown.Add(output);
        }
    }

    public void Update(MimeBundle bundle, string displayId)
    {
        lock (displays)
        {
            foreach (var output in displays.GetValueOrDefault(displayId) ?? []) output["data"] = JupyterOutput.Data(bundle);
        }
    }

    public void Clear(bool wait)
    {
        lock (displays)
        {
            Close();
            if (wait) _clearNext = true;
            else Outputs.Clear();
        }
    }

    public void Page(string text) => Show(new MimeBundle(text), null);

    public string ReadLine(string prompt, bool password, CancellationToken cancel) => throw new NotSupportedException("[input] nobody can answer while a notebook is run from the command line");

    internal void Finish(CellResult result, int count)
    {
        lock (displays)
        {
            Close();
            if (result.Value is { } value)
            {
                Add(new JsonObject { ["output_type"] = "execute_result", ["execution_count"] = count, ["metadata"] = new JsonObject(), ["data"] = JupyterOutput.Data(value) });
            }
            if (result.Error is not { } error) return;
            Add(new JsonObject
            {
                ["output_type"] = "error",
                ["ename"] = error.Name,
                ["evalue"] = error.Value,
                ["traceback"] = new JsonArray([.. error.Traceback.Select(l => (JsonNode)l)]),
            });
        }
    }

    private void Add(JsonObject output)
    {
        if (_clearNext) Outputs.Clear();
        _clearNext = false;
        Outputs.Add((JsonNode)output);
    }

    private void Close()
    {
        if (_stream is null) return;
        _stream["text"] = _text.ToString();
        _text.Clear();
        _stream = null;
    }
}
