using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;

using KtNotebooks.Jupyter.Cells;
using KtNotebooks.Jupyter.Protocol;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>A kernel that Jupyter knows, in a process of its own: started by its kernel spec and asked over its sockets, without any Python.</summary>
internal sealed partial class KernelClient : INotebookKernel
{
    private const int StartSeconds = 120, PollMilliseconds = 20, FarewellMilliseconds = 5000, InterruptSignal = 2;

    private readonly string _name;
    private readonly bool _takesMessages;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("kt-client-");
    private readonly Process _process;
    private readonly LastLine _words = new();
    private readonly ZmqContext _zmq = new();
    private readonly ZmqSocket _shell, _control, _ioPub;
    private readonly Wire _wire;
    private readonly Dictionary<string, NotebookOutput> _outputs = [];
    private readonly HashSet<string> _idle = [];

    /// <param name="name">Of an installed kernel, such as .net-csharp.</param>
    /// <param name="folder">In which it works.</param>
    /// <exception cref="FileNotFoundException">No such kernel is installed; the line names those that are.</exception>
    /// <exception cref="InvalidOperationException">It does not start; the line has its last words.</exception>
    internal KernelClient(string name, string folder, CancellationToken cancel)
    {
        _name = name;
        var spec = KernelSpec.Read(name);
        _takesMessages = (string?)spec["interrupt_mode"] == "message";
        var connection = ConnectionFile.Choose();
        var file = Path.Combine(_folder.FullName, "kernel.json");
        connection.Write(file);
        _process = Start(spec, file, folder);
        _wire = new Wire(connection.Key, connection.SignatureScheme);
        _ioPub = _zmq.Connect(Zmq.Sub, connection.Endpoint(connection.IoPubPort));
        _shell = _zmq.Connect(Zmq.Dealer, connection.Endpoint(connection.ShellPort));
        _control = _zmq.Connect(Zmq.Dealer, connection.Endpoint(connection.ControlPort));
        try
        {
            Language = WaitUntilReady(cancel);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public JsonObject? Language { get; }

    public CellError? Execute(string source, int count, NotebookOutput output, CancellationToken cancel)
    {
        var id = Ask(_shell, "execute_request", new JsonObject
        {
            ["code"] = source,
            ["silent"] = false,
            ["store_history"] = true,
            ["user_expressions"] = new JsonObject(),
            ["allow_stdin"] = false,
            ["stop_on_error"] = true,
        }, output);
        var interrupted = false;
        Message? reply = null;
        while (reply is null || !_idle.Contains(id))
        {
            if (cancel.IsCancellationRequested && !interrupted)
            {
                interrupted = true;
                Interrupt();
            }
            if (_process.HasExited) return Lost(output);
            if (!Broadcasts() && reply is null && Next(_shell) is { Type: "execute_reply" } answer && IdOf(answer.Parent) == id) reply = answer;
            else if (reply is not null || !Broadcasts()) Thread.Sleep(PollMilliseconds);
        }
        return (string?)reply.Content["status"] == "ok" ? null
            : new CellError((string?)reply.Content["ename"] ?? "Error", (string?)reply.Content["evalue"] ?? "the cell failed", []);
    }

    public void Dispose()
    {
        if (!_process.HasExited)
        {
            Ask(_control, "shutdown_request", new JsonObject { ["restart"] = false }, null);
            if (!_process.WaitForExit(FarewellMilliseconds)) _process.Kill(entireProcessTree: true);
        }
        foreach (var socket in (ZmqSocket[])[_shell, _control, _ioPub]) socket.Dispose();
        _zmq.Dispose();
        _process.Dispose();
        _folder.Delete(recursive: true);
    }

    private Process Start(JsonObject spec, string connectionFile, string folder)
    {
        var words = spec["argv"]!.AsArray().Select(w => ((string)w!).Replace("{connection_file}", connectionFile, StringComparison.Ordinal)).ToArray();
        var start = new ProcessStartInfo(words[0], words[1..]) { WorkingDirectory = folder, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (var (variable, value) in spec["env"] as JsonObject ?? []) start.Environment[variable] = (string?)value;
        try
        {
            var process = Process.Start(start)!;
            process.OutputDataReceived += (_, line) => _words.Add(line.Data);
            process.ErrorDataReceived += (_, line) => _words.Add(line.Data);
            process.BeginOutputReadLine();
            process.BeginErrorReadLine();
            return process;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new InvalidOperationException($"[kernel] {_name}: its program {words[0]} cannot be started: {e.Message}", e);
        }
    }

    /// <summary>A kernel is ready when it has answered and its broadcasts are heard.</summary>
    private JsonObject? WaitUntilReady(CancellationToken cancel)
    {
        var clock = Stopwatch.StartNew();
        JsonObject? language = null;
        for (var asked = TimeSpan.MinValue; language is null || _idle.Count == 0; Thread.Sleep(PollMilliseconds))
        {
            cancel.ThrowIfCancellationRequested();
            if (_process.HasExited) throw new InvalidOperationException($"[kernel] {_name} ended while it started: {_words}");
            if (clock.Elapsed.TotalSeconds > StartSeconds) throw new InvalidOperationException($"[kernel] {_name} was not ready in {StartSeconds} s: {_words}");
            if (clock.Elapsed - (asked == TimeSpan.MinValue ? TimeSpan.FromSeconds(-1) : asked) > TimeSpan.FromSeconds(1))
            {
                asked = clock.Elapsed;
                Ask(_shell, "kernel_info_request", [], null);
            }
            while (Next(_shell) is { } reply) language = reply.Content["language_info"] as JsonObject ?? [];
            while (Broadcasts()) { }
        }
        return (JsonObject)language.DeepClone();
    }

    /// <returns>The request's id.</returns>
    private string Ask(ZmqSocket socket, string type, JsonObject content, NotebookOutput? output)
    {
        var id = Guid.NewGuid().ToString();
        if (output is not null) _outputs[id] = output;
        socket.Send(_wire.Write([], type, null, Wire.Bytes(content), id));
        return id;
    }

    private Message? Next(ZmqSocket socket) => socket.Receive(wait: false) is { Count: > 0 } frames ? _wire.Read(frames) : null;

    /// <summary>Takes one broadcast to the output of the cell that it is about, also when that has ended.</summary>
    /// <returns>Whether there was one.</returns>
    private bool Broadcasts()
    {
        if (Next(_ioPub) is not { } message) return false;
        if (IdOf(message.Parent) is not { } id) return true;
        if (message.Type == "status" && message.Text("execution_state") == "idle") _idle.Add(id);
        if (_outputs.TryGetValue(id, out var output)) output.Take(message.Type, message.Content);
        return true;
    }

    private static string? IdOf(byte[] header) => JsonNode.Parse(header) is JsonObject parent ? (string?)parent["msg_id"] : null;

    /// <summary>As the kernel wants it: by a message, or by the signal that Ctrl-C sends.</summary>
    private void Interrupt()
    {
        if (_takesMessages) Ask(_control, "interrupt_request", [], null);
        else _ = kill(_process.Id, InterruptSignal);
    }

    private CellError Lost(NotebookOutput output)
    {
        while (Broadcasts()) { }
        var error = new CellError("DeadKernel", $"the kernel {_name} ended: {_words}", []);
        output.Finish(new CellResult(error, null), 0);
        return error;
    }

    [LibraryImport("libc")] private static partial int kill(int process, int signal);

    /// <summary>What a process said last.</summary>
    private sealed class LastLine
    {
        private volatile string _line = "it said nothing";

        public void Add(string? line)
        {
            if (!string.IsNullOrWhiteSpace(line)) _line = line.Trim();
        }

        public override string ToString() => _line;
    }
}
