using System.Net;
using System.Net.Sockets;

using KtNotebooks.Distributed;
using KtNotebooks.Tests.Cli;

namespace KtNotebooks.Tests.Distributed;

/// <summary>
/// What torchrun --no-python does, agents of all its nodes in one object (torch/distributed/elastic/agent/server, .../multiprocessing/api.py): processes with
/// torch's variables, its store at MASTER_PORT, a look at them every 100 ms. When one fails, the others get SIGTERM, and SIGKILL 30 s later; then all start
/// again, as often as --max-restarts says.
/// </summary>
/// <param name="nodes">--nnodes.</param>
/// <param name="each">--nproc-per-node.</param>
/// <param name="master">Where the first node is.</param>
/// <param name="start">Starts kt on a node.</param>
internal sealed class Torchrun(int nodes, int each, string master, Func<int, (string Name, string Value)[], Kt> start) : IDisposable
{
    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(100), Grace = TimeSpan.FromSeconds(30);
    private TcpListener? _store;

    /// <summary>Of this start, by rank.</summary>
    public Kt[] Processes { get; private set; } = [];

    /// <summary>--max-restarts.</summary>
    public int Restarts { get; init; }

    /// <summary>The ends of all starts' processes, by rank; after the last start.</summary>
    /// <param name="during">Looks on, with the number of the start.</param>
    public List<(int Exit, string Output, string Errors)[]> Run(Action<int>? during = null)
    {
        _store = IPAddress.IsLoopback(IPAddress.Parse(master)) ? new TcpListener(IPAddress.Loopback, 0) : null; // of this machine; others' ports are free
        _store?.Start();
        var port = _store is null ? Launch.DefaultPort : ((IPEndPoint)_store.LocalEndpoint).Port;
        List<(int Exit, string Output, string Errors)[]> starts = [];
        while (true)
        {
            Processes = [.. Enumerable.Range(0, nodes * each).Select(rank => start(rank / each, Variables(rank, port, starts.Count)))];
            during?.Invoke(starts.Count);
            while (Processes.Any(p => !p.HasEnded) && Processes.All(p => !p.HasEnded || p.End().Exit == 0)) Thread.Sleep(Look);
            var isDone = Processes.All(p => p.HasEnded && p.End().Exit == 0);
            foreach (var other in Processes.Where(p => !p.HasEnded)) other.Signal("TERM");
            foreach (var process in Processes)
                if (!process.EndsWithin(Grace)) process.Kill();
            starts.Add([.. Processes.Select(p => p.End())]);
            foreach (var process in Processes) process.Dispose();
            Processes = [];
            if (isDone || starts.Count > Restarts) return starts;
        }
    }

    public void Dispose()
    {
        foreach (var process in Processes) process.Dispose();
        Processes = [];
        _store?.Dispose();
    }

    /// <summary>LocalElasticAgent._start_workers: all that it sets.</summary>
    private (string, string)[] Variables(int rank, int port, int restarts) =>
    [
        ("RANK", $"{rank}"), ("GROUP_RANK", $"{rank / each}"), ("ROLE_RANK", $"{rank}"), ("ROLE_NAME", "default"), ("LOCAL_RANK", $"{rank % each}"),
        ("LOCAL_WORLD_SIZE", $"{each}"), ("WORLD_SIZE", $"{nodes * each}"), ("GROUP_WORLD_SIZE", $"{nodes}"), ("ROLE_WORLD_SIZE", $"{nodes * each}"),
        ("MASTER_ADDR", master), ("MASTER_PORT", $"{port}"), ("TORCHELASTIC_RESTART_COUNT", $"{restarts}"), ("TORCHELASTIC_MAX_RESTARTS", $"{Restarts}"),
        ("TORCHELASTIC_RUN_ID", "5b1d3f2e-7f0e-4a59-8d4f-2b6c1a9e0d11"), ("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        ("OMP_NUM_THREADS", "1"),
    ];
}
