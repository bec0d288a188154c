using System.Text;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;
using KtNotebooks.Jupyter.Protocol;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>
/// The outputs of one code cell, as nbformat stores them. Background work of the cell may go on writing after its end, until the notebook is written.
/// </summary>
internal sealed class NotebookOutput : ICellOutput
{
    private readonly Displays _displays;
    private readonly StringBuilder _text = new();
    private JsonObject? _stream;
    private bool _clearNext;

    internal NotebookOutput(Displays displays)
    {
        _displays = displays;
        displays.Add(this);
    }

    internal JsonArray Outputs { get; } = [];

    public void Write(string stream, string text)
    {
        lock (_displays.Gate)
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
        lock (_displays.Gate)
        {
            Close();
            var output = new JsonObject { ["output_type"] = "display_data", ["metadata"] = new JsonObject(), ["data"] = JupyterOutput.Data(bundle) };
            Add(output);
            if (displayId is not null) _displays.Add(displayId, output);
        }
    }

    public void Update(MimeBundle bundle, string displayId)
    {
        lock (_displays.Gate)
        {
            foreach (var output in _displays.With(displayId)) output["data"] = JupyterOutput.Data(bundle);
        }
    }

    public void Clear(bool wait)
    {
        lock (_displays.Gate)
        {
            Close();
            if (wait) _clearNext = true;
            else Outputs.Clear();
        }
    }

    public void Page(string text) => Show(new MimeBundle(text), null);

    public string ReadLine(string prompt, bool password, CancellationToken cancel) =>
        throw new NotSupportedException("[input] nobody can answer while a notebook is run from the command line");

    internal void Finish(CellResult result, int count)
    {
        lock (_displays.Gate)
        {
            Close();
            if (result.Value is { } value)
            {
                Add(new JsonObject
                {
                    ["output_type"] = "execute_result",
                    ["execution_count"] = count,
                    ["metadata"] = new JsonObject(),
                    ["data"] = JupyterOutput.Data(value),
                });
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

    /// <summary>Ends the stream that is being written, so that all outputs are valid; under the gate.</summary>
    internal void Close()
    {
        if (_stream is null) return;
        _stream["text"] = _text.ToString();
        _text.Clear();
        _stream = null;
    }
}
