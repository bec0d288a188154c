using System.Collections.Concurrent;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>A question of the running cell to the user; the shell thread carries it.</summary>
internal sealed record InputRequest(string Prompt, bool Password, TaskCompletionSource<string> Answer);

/// <summary>Output of one execute request, broadcast with its header as parent, also after the request has been answered.</summary>
internal sealed class JupyterOutput(IoPub ioPub, byte[] parent, bool allowStdin) : ICellOutput
{
    /// <summary>Completed when the cell is done.</summary>
    internal BlockingCollection<InputRequest> Questions { get; } = [];

    internal JsonArray Payload { get; } = [];

    public void Write(string stream, string text) => ioPub.Write(stream, parent, text);

    public void Show(MimeBundle bundle, string? displayId) => ioPub.Show("display_data", parent, Content(bundle, displayId), Size(bundle));

    public void Update(MimeBundle bundle, string displayId) => ioPub.Show("update_display_data", parent, Content(bundle, displayId), Size(bundle));

    public void Clear(bool wait) => ioPub.Show("clear_output", parent, new JsonObject { ["wait"] = wait }, 0);

    /// <summary>Programs that run notebooks (nbclient, nbconvert) have no pager and take no input either: there the text is an output like others.</summary>
    public void Page(string text)
    {
        if (!allowStdin) Show(new MimeBundle(text), null);
        Payload.Add((JsonNode)new JsonObject
        {
            ["source"] = "page",
            ["start"] = 0,
            ["data"] = new JsonObject { ["text/plain"] = text },
        });
    }

    public string ReadLine(string prompt, bool password, CancellationToken cancel)
    {
        if (!allowStdin) throw new NotSupportedException("[input] this front end does not let cells ask for input");
        var answer = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        try
        {
            Questions.Add(new InputRequest(prompt, password, answer), cancel);
        }
        catch (InvalidOperationException)
        {
            throw new NotSupportedException("[input] the cell that asks has ended, so that nobody can answer");
        }
        answer.Task.Wait(cancel);
        return answer.Task.Result;
    }

    /// <summary>Bytes or characters, without what JSON adds.</summary>
    internal static long Size(MimeBundle bundle) =>
        bundle.Data.Values.Sum(v => v switch { string text => text.Length, byte[] bytes => bytes.LongLength, _ => 0 });

    internal static JsonObject Data(MimeBundle bundle)
    {
        var data = new JsonObject();
        foreach (var (mime, value) in bundle.Data)
        {
            data[mime] = value switch
            {
                byte[] bytes => Convert.ToBase64String(bytes),
                JsonNode node => node.DeepClone(),
                _ => value.ToString(),
            };
        }
        return data;
    }

    /// <summary>How large pictures are meant to be.</summary>
    internal static JsonObject Metadata(MimeBundle bundle) =>
        new(bundle.Metadata.Select(m => KeyValuePair.Create(m.Key, (JsonNode?)m.Value.DeepClone())));

    private static JsonObject Content(MimeBundle bundle, string? displayId) => new()
    {
        ["data"] = Data(bundle),
        ["metadata"] = Metadata(bundle),
        ["transient"] = displayId is null ? new JsonObject() : new JsonObject { ["display_id"] = displayId },
    };
}
