using System.Text.Json.Nodes;

using KtNotebooks.Jupyter.Cells;
using KtNotebooks.Jupyter.Protocol;

namespace KtNotebooks.Jupyter;

/// <summary>Serves the shell socket: one request after another, each between a busy and an idle status.</summary>
internal sealed class ShellLoop
{
    private readonly Wire _wire;
    private readonly IoPub _ioPub;
    private readonly CSharpSession _session;
    private readonly ZmqSocket _shell, _stdin;
    private readonly Queue<Message> _aborted = [];
    private readonly History _history = new();
    private readonly CodeAssistant _assistant;
    private readonly LastWords _words;
    private int _count;

    internal ShellLoop(Wire wire, IoPub ioPub, CSharpSession session, ZmqSocket shell, ZmqSocket stdin, LastWords words)
    {
        (_wire, _ioPub, _session, _shell, _stdin, _words) = (wire, ioPub, session, shell, stdin, words);
        _assistant = new CodeAssistant(session);
        stdin.SetReceiveTimeout(50);
    }

    internal void Run()
    {
        using (_shell)
        using (_stdin)
        {
            while (_shell.Receive() is { } frames)
            {
                if (_wire.Read(frames) is { } request) Serve(request, abort: false);
            }
        }
    }

    /// <summary>With <paramref name="abort"/> cells are refused, because an earlier one failed.</summary>
    private void Serve(Message request, bool abort)
    {
        _ioPub.Status("busy", request.Header);
        try
        {
            Answer(request, abort);
        }
        catch (Exception e)
        {
            // One request that the kernel fails at must not make it deaf to the next.
            var type = request.Type.EndsWith("_request", StringComparison.Ordinal) ? request.Type[..^"request".Length] + "reply" : "";
            if (type.Length > 0) Reply(request, type, Failed(new CellError(e.GetType().Name, $"the kernel failed at {request.Type}: {e.Message}", [])));
        }
        _ioPub.Status("idle", request.Header);
        while (_aborted.TryDequeue(out var next)) Serve(next, abort: true);
    }

    private void Answer(Message request, bool abort)
    {
        switch (request.Type)
        {
            case "execute_request" when abort:
                Reply(request, "execute_reply", new JsonObject { ["status"] = "aborted", ["execution_count"] = _count });
                break;
            case "execute_request":
                Execute(request);
                break;
            case "kernel_info_request": Reply(request, "kernel_info_reply", KernelInfo.Reply()); break;
            case "complete_request": Reply(request, "complete_reply", _assistant.Complete(request)); break;
            case "inspect_request": Reply(request, "inspect_reply", _assistant.Inspect(request)); break;
            case "is_complete_request": Reply(request, "is_complete_reply", CodeAssistant.IsComplete(request.Text("code"))); break;
            case "history_request": Reply(request, "history_reply", _history.Reply(request)); break;
            case "comm_info_request": Reply(request, "comm_info_reply", new JsonObject { ["status"] = "ok", ["comms"] = new JsonObject() }); break;
            case "comm_open":
                // No comm targets here: widgets need a Python side. Closing says so, instead of leaving the front end waiting.
                _ioPub.Post("comm_close", request.Header, new JsonObject { ["comm_id"] = request.Text("comm_id"), ["data"] = new JsonObject() });
                break;
            case "shutdown_request": break;     // belongs on control, where it is served at once
            default: break;                     // the protocol: ignore what is unknown
        }
    }

    /// <summary>
    /// After an error: takes up what a "run all" has queued. This must come before the reply is sent; what a client sends after it has
    /// seen the reply is a new wish and is served.
    /// </summary>
    private void CollectQueued()
    {
        while (_shell.Receive(wait: false) is { Count: > 0 } frames)
        {
            if (_wire.Read(frames) is { } request) _aborted.Enqueue(request);
        }
    }

    private void Execute(Message request)
    {
        var code = request.Text("code");
        var silent = request.Flag("silent", false);
        var store = request.Flag("store_history", true) && !silent;
        if (store) _count++;
        if (!silent) _ioPub.Post("execute_input", request.Header, new JsonObject { ["code"] = code, ["execution_count"] = _count });

        var output = new JupyterOutput(_ioPub, request.Header, request.Flag("allow_stdin", false));
        using var cell = new Cell($"cell-{_count}.csx", silent ? NoOutput.Instance : output);
        if (!silent && _words.TakeBefore() is { } before) output.Write("stderr", before);
        _words.Runs(cell.Label, code);
        var running = _session.Execute(code, cell, output.Questions.CompleteAdding);
        AnswerQuestions(request, output, running);
        var result = running.Result;
        _words.Rests();
        if (store) _history.Add(_count, code, result.Value?.Text);

        if (result.Error is { } error)
        {
            if (!silent) _ioPub.Post("error", request.Header, Error(error));
            var content = Failed(error);
            content["execution_count"] = _count;
            content["user_expressions"] = new JsonObject();
            content["payload"] = new JsonArray();
            if (request.Flag("stop_on_error", true)) CollectQueued();
            Reply(request, "execute_reply", content);
            return;
        }
        if (result.Value is { } value && !silent)
        {
            _ioPub.Show("execute_result", request.Header, new JsonObject
            {
                ["execution_count"] = _count,
                ["data"] = JupyterOutput.Data(value),
                ["metadata"] = JupyterOutput.Metadata(value),
            }, JupyterOutput.Size(value));
        }
        Reply(request, "execute_reply", new JsonObject
        {
            ["status"] = "ok",
            ["execution_count"] = _count,
            ["user_expressions"] = UserExpressions(request, cell),
            ["payload"] = output.Payload,
        });
    }

    /// <summary>
    /// While a cell runs, this thread has nothing else to do than to carry its questions to the client and the answers back. The cell thread ends them: the
    /// pool may be full of the cell's own tasks.
    /// </summary>
    private void AnswerQuestions(Message request, JupyterOutput output, Task running)
    {
        foreach (var question in output.Questions.GetConsumingEnumerable())
        {
            while (_stdin.Receive(wait: false) is { Count: > 0 }) { }      // answers to questions that were interrupted
            _stdin.Send(_wire.Write(request.Identities, "input_request", request.Header, new JsonObject
            {
                ["prompt"] = question.Prompt,
                ["password"] = question.Password,
            }));
            while (!running.IsCompleted)
            {
                if (_stdin.Receive() is not { } frames) return;
                if (frames.Count == 0 || _wire.Read(frames) is not { Type: "input_reply" } reply) continue;
                question.Answer.TrySetResult(reply.Text("value"));
                break;
            }
        }
    }

    private JsonObject UserExpressions(Message request, Cell cell)
    {
        var answers = new JsonObject();
        foreach (var (name, expression) in request.Content["user_expressions"] as JsonObject ?? [])
        {
            var result = _session.Evaluate(expression?.ToString() ?? "", cell).Result;
            answers[name] = result.Error is { } error
                ? Failed(error)
                : new JsonObject { ["status"] = "ok", ["data"] = JupyterOutput.Data(result.Value!), ["metadata"] = new JsonObject() };
        }
        return answers;
    }

    private static JsonObject Error(CellError error) => new()
    {
        ["ename"] = error.Name,
        ["evalue"] = error.Value,
        ["traceback"] = new JsonArray([.. error.Traceback.Select(l => (JsonNode)l)]),
    };

    private static JsonObject Failed(CellError error)
    {
        var content = Error(error);
        content["status"] = "error";
        return content;
    }

    private void Reply(Message request, string type, JsonObject content) => _shell.Send(_wire.Write(request.Identities, type, request.Header, content));
}
