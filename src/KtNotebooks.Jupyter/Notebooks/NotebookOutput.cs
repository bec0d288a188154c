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

    public void Show(MimeBundle bundle, string? displayId) => Show(JupyterOutput.Data(bundle), displayId, JupyterOutput.Metadata(bundle));

    public void Update(MimeBundle bundle, string displayId) => Update(JupyterOutput.Data(bundle), displayId, JupyterOutput.Metadata(bundle));

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

    /// <summary>What a kernel has broadcast about the cell, as Jupyter's messages have it.</summary>
    internal void Take(string type, JsonObject content)
    {
        switch (type)
        {
            case "stream": Write((string?)content["name"] ?? "stdout", (string?)content["text"] ?? ""); break;
            case "clear_output": Clear((bool?)content["wait"] ?? false); break;
            case "display_data": Show(Part(content, "data"), (string?)content["transient"]?["display_id"], Part(content, "metadata")); break;
            case "update_display_data": Update(Part(content, "data"), (string?)content["transient"]?["display_id"] ?? "", Part(content, "metadata")); break;
            case "execute_result": Result(Part(content, "data"), (int?)content["execution_count"] ?? 0, Part(content, "metadata")); break;
            case "error": Fail((string?)content["ename"], (string?)content["evalue"], (JsonArray?)content["traceback"]?.DeepClone() ?? []); break;
        }

        static JsonObject Part(JsonObject content, string name) => (JsonObject?)content[name]?.DeepClone() ?? [];
    }

    internal void Finish(CellResult result, int count)
    {
        if (result.Value is { } value) Result(JupyterOutput.Data(value), count, JupyterOutput.Metadata(value));
        if (result.Error is { } error) Fail(error.Name, error.Value, new JsonArray([.. error.Traceback.Select(l => (JsonNode)l)]));
    }

    private void Show(JsonObject data, string? displayId, JsonObject metadata)
    {
        lock (_displays.Gate)
        {
            var output = new JsonObject { ["output_type"] = "display_data", ["metadata"] = metadata, ["data"] = data };
            Put(output);
            if (displayId is not null) _displays.Add(displayId, output);
        }
    }

    private void Update(JsonObject data, string displayId, JsonObject metadata)
    {
        lock (_displays.Gate)
        {
            foreach (var output in _displays.With(displayId)) (output["data"], output["metadata"]) = (data.DeepClone(), metadata.DeepClone());
        }
    }

    private void Result(JsonObject data, int count, JsonObject metadata) => Put(new JsonObject
    {
        ["output_type"] = "execute_result",
        ["execution_count"] = count,
        ["metadata"] = metadata,
        ["data"] = data,
    });

    private void Fail(string? name, string? value, JsonArray traceback) =>
        Put(new JsonObject { ["output_type"] = "error", ["ename"] = name ?? "", ["evalue"] = value ?? "", ["traceback"] = traceback });

    /// <summary>Adds an output that is whole, after the stream before it.</summary>
    private void Put(JsonObject output)
    {
        lock (_displays.Gate)
        {
            Close();
            Add(output);
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
