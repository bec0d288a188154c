using System.Runtime.InteropServices;
using System.Text.Json.Nodes;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;
using KtNotebooks.Jupyter.Protocol;

namespace KtNotebooks.Jupyter;

/// <summary>
/// The Jupyter kernel: five sockets, each on its own thread. Shell requests are served one after another; control is answered at any time,
/// also while a cell runs, which is what makes the stop button work.
/// </summary>
public sealed class KernelServer : IDisposable
{
    private const int ParentCheckMilliseconds = 1000, StopMilliseconds = 1500;
    private const int StackBytes = 16 << 20; // completion walks half-written code by recursion

    private readonly ZmqContext _zmq = new();
    private readonly ManualResetEventSlim _stopped = new();
    private readonly List<Thread> _threads = [];
    private readonly Wire _wire;
    private readonly IoPub _ioPub;
    private readonly CSharpSession _session = new();
    private readonly LastWords _words;

    private KernelServer(ConnectionFile connection, LastWords words)
    {
        _words = words;
        _wire = new Wire(connection.Key, connection.SignatureScheme);
        _ioPub = new IoPub(_wire, _zmq.Bind(Zmq.Pub, connection.Endpoint(connection.IoPubPort)));
        var heartbeat = _zmq.Bind(Zmq.Rep, connection.Endpoint(connection.HeartbeatPort));
        var control = _zmq.Bind(Zmq.Router, connection.Endpoint(connection.ControlPort));
        var shell = _zmq.Bind(Zmq.Router, connection.Endpoint(connection.ShellPort));
        var stdin = _zmq.Bind(Zmq.Router, connection.Endpoint(connection.StdinPort));
        _ioPub.Status("starting", null);
        Start("heartbeat", () => Heartbeat(heartbeat));
        Start("control", () => Control(control));
        Start("shell", () => new ShellLoop(_wire, _ioPub, _session, shell, stdin, words).Run());
    }

    /// <summary>Serves until a client asks to shut down, the token is cancelled, or the process that started the kernel is gone.</summary>
    /// <returns>The process's exit code.</returns>
    public static int Run(string connectionFile, CancellationToken cancel)
    {
        var connection = ConnectionFile.Read(connectionFile);
        using var console = CellConsole.Install();
        var words = new LastWords(connectionFile);
        using var server = new KernelServer(connection, words);
        Display.Host = new CellDisplay();
        CellFailures.Survive(words);
        // Terminals send SIGINT, and so do clients that ignore interrupt_mode; its default action would end the process.
        using var sigint = PosixSignalRegistration.Create(PosixSignal.SIGINT, signal =>
        {
            signal.Cancel = true;
            server._session.Interrupt();
        });
        using var sigterm = PosixSignalRegistration.Create(PosixSignal.SIGTERM, signal =>
        {
            signal.Cancel = true;
            server._stopped.Set();
        });
        using var stop = cancel.Register(server._stopped.Set);
        server.WaitForStop();
        words.Forget();
        Display.Host = null;
        return 0;
    }

    public void Dispose()
    {
        _ioPub.Close();
        _zmq.Stop();
        _session.Interrupt();
        _session.Dispose();
        // A cell may be stuck in native code; then its thread ends with the process.
        var deadline = Environment.TickCount64 + StopMilliseconds;
        if (_threads.All(t => t.Join((int)Math.Max(0, deadline - Environment.TickCount64)))) _zmq.Dispose();
        _stopped.Dispose();
    }

    private void WaitForStop()
    {
        var parent = Environment.GetEnvironmentVariable("JPY_PARENT_PID") is { } text && int.TryParse(text, out var pid) && pid > 1 ? $"/proc/{pid}" : null;
        while (!_stopped.Wait(ParentCheckMilliseconds))
        {
            if (parent is not null && Directory.Exists("/proc/self") && !Directory.Exists(parent)) return;
        }
    }

    private void Start(string name, Action run)
    {
        var thread = new Thread(() =>
        {
            try
            {
                run();
            }
            catch (Exception e)
            {
                _words.Ends($"its {name} thread failed: {e.Message}");
                Console.Error.WriteLine($"[kernel] the {name} thread failed: {e}");
                _stopped.Set();
            }
        }, StackBytes)
        { IsBackground = true, Name = name };
        _threads.Add(thread);
        thread.Start();
    }

    private static void Heartbeat(ZmqSocket socket)
    {
        using (socket)
        {
            while (socket.Receive() is { } frames && socket.Send(frames)) { }
        }
    }

    private void Control(ZmqSocket socket)
    {
        using (socket)
        {
            while (socket.Receive() is { } frames)
            {
                if (_wire.Read(frames) is not { } request) continue;
                _ioPub.Status("busy", request.Header);
                var (type, content) = request.Type switch
                {
                    "kernel_info_request" => ("kernel_info_reply", KernelInfo.Reply()),
                    "interrupt_request" => ("interrupt_reply", Interrupt()),
                    "shutdown_request" => ("shutdown_reply", new JsonObject { ["status"] = "ok", ["restart"] = request.Flag("restart", false) }),
                    _ => ("", null),
                };
                if (content is not null) socket.Send(_wire.Write(request.Identities, type, request.Header, content));
                if (type == "shutdown_reply") _ioPub.Post(type, request.Header, (JsonObject)content!.DeepClone());
                _ioPub.Status("idle", request.Header);
                if (type == "shutdown_reply")
                {
                    _words.Forget();
                    _stopped.Set();
                    return;
                }
            }
        }
    }

    private JsonObject Interrupt()
    {
        _session.Interrupt();
        return new JsonObject { ["status"] = "ok" };
    }
}
