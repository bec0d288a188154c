using System.Globalization;

namespace KtNotebooks.Distributed;

/// <summary>Who started the ranks, which decides how they find each other.</summary>
public enum Launcher
{
    /// <summary>Nobody: one process.</summary>
    None,

    /// <summary>mpirun of Open MPI, or srun --mpi=pmix.</summary>
    Mpi,

    /// <summary>torchrun, or anyone who sets RANK, WORLD_SIZE and MASTER_ADDR, or what llamafactory-cli takes: NNODES, NODE_RANK and MASTER_ADDR.</summary>
    Environment,

    /// <summary>srun without MPI.</summary>
    Slurm,
}

/// <summary>Which rank of how many this process is, as its environment says.</summary>
/// <param name="LocalRank">Among those of this host: the number of its card.</param>
/// <param name="LocalWorld">Ranks of this host; 0: not known.</param>
/// <param name="Master">The host of rank 0; empty where MPI knows it.</param>
/// <param name="Port">Where rank 0 listens.</param>
public sealed record Launch(Launcher By, int Rank, int World, int LocalRank, int LocalWorld, string Master = "", int Port = 0)
{
    /// <summary>torch's own.</summary>
    public const int DefaultPort = 29500;

    /// <summary>
    /// torchrun's own store listens at MASTER_PORT (TORCHELASTIC_USE_AGENT_STORE), and so far above it rank 0. The next port would be that of the next torchrun
    /// of the host: torch's documentation numbers them so.
    /// </summary>
    private const int BesideStore = 1000;

    private const int LastPort = 65535;

    public static Launch Alone { get; } = new(Launcher.None, 0, 1, 0, 1);

    /// <summary>What ranks of one start have in common and those of another do not; empty: nothing is known.</summary>
    public string Run { get; init; } = "";

    /// <summary>Who can have rank 0 listen elsewhere, in words.</summary>
    public string OtherPort => By == Launcher.Environment && Run.Length > 0 ? "start torchrun with another --master-port or --rdzv-endpoint"
        : "set MASTER_PORT to a port that is free on this host";

    /// <summary>A line about what was asked for and is done otherwise; empty: there is nothing to say.</summary>
    public string Note { get; init; } = "";

    /// <exception cref="ArgumentException">The variables contradict each other, or belong to another MPI.</exception>
    public static Launch Read(Func<string, string?> variable)
    {
        ArgumentNullException.ThrowIfNull(variable);
        string? Get(string name) => string.IsNullOrWhiteSpace(variable(name)) ? null : variable(name)!.Trim();
        int? Number(string name) => Get(name) is not { } text ? null
            : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) ? number
            : throw new ArgumentException($"the environment has {name}={text}: wanted a number");

        var isElastic = Get("TORCHELASTIC_RUN_ID") is not null; // torchrun, maybe itself started by mpirun
        if (!isElastic && Number("OMPI_COMM_WORLD_SIZE") is > 1 and var size)
            return new Launch(Launcher.Mpi, Required("OMPI_COMM_WORLD_RANK"), size, Number("OMPI_COMM_WORLD_LOCAL_RANK") ?? 0,
                Number("OMPI_COMM_WORLD_LOCAL_SIZE") ?? 0).Checked();
        // Only a step of srun has all of these: the script of sbatch is one process, however many tasks the job has.
        var tasks = Get("SLURM_PROCID") is not null && Get("SLURM_STEP_ID") is not null ? Number("SLURM_STEP_NUM_TASKS") ?? 1 : 1;
        // Scripts for Slurm set WORLD_SIZE for all tasks, and leave each to look up its number.
        if (Number("WORLD_SIZE") is > 1 and var world && (tasks == 1 || Get("RANK") is not null))
        {
            var isTaken = string.Equals(Get("TORCHELASTIC_USE_AGENT_STORE"), "true", StringComparison.OrdinalIgnoreCase);
            var given = Number("MASTER_PORT") ?? DefaultPort;
            return new Launch(Launcher.Environment, Required("RANK"), world, Number("LOCAL_RANK") ?? 0, Number("LOCAL_WORLD_SIZE") ?? 0,
                Get("MASTER_ADDR") ?? throw new ArgumentException($"the environment has WORLD_SIZE={world}, but no MASTER_ADDR: wanted the host of rank 0"),
                !isTaken ? given : given + BesideStore <= LastPort ? given + BesideStore : given - BesideStore)
            {
                Run = isElastic ? $"torchrun {Get("TORCHELASTIC_RUN_ID")} {Get("TORCHELASTIC_RESTART_COUNT")}" : "",
            }.Checked();
        }
        if (tasks > 1)
        {
            var (rank, local) = (Required("SLURM_PROCID"), Number("SLURM_LOCALID") ?? 0);
            if (Get("PMIX_RANK") is not null) return new Launch(Launcher.Mpi, rank, tasks, local, 0).Checked();
            var (job, step, hosts) = (Number("SLURM_JOB_ID") ?? 0, Number("SLURM_STEP_ID") ?? 0, Get("SLURM_STEP_NODELIST") ?? Get("SLURM_JOB_NODELIST") ?? "");
            // Jobs of one host, and steps of one job, run beside each other.
            var port = Number("MASTER_PORT") ?? DefaultPort + (int)((job + (37L * step)) % 1000);
            return new Launch(Launcher.Slurm, rank, tasks, local, 0, Get("MASTER_ADDR") ?? FirstHost(hosts), port) { Run = $"slurm {job} {step}" }.Checked();
        }
        if (AsLlamaFactory(Get, Number) is { } nodes) return nodes.Checked();
        if (Number("PMI_SIZE") is > 1 and var others && Get("PMIX_RANK") is null)
            throw new ArgumentException($"{others} processes were started by an MPI that is not Open MPI (PMI_SIZE is set, OMPI_COMM_WORLD_SIZE is not): "
                + "MPICH's handles are others; use Open MPI's mpirun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each process");
        return Alone;

        int Required(string name) => Number(name) ?? throw new ArgumentException($"the environment says that there are several ranks, but has no {name}");
    }

    /// <summary>
    /// What users of llamafactory-cli set, which starts torchrun with it (LLaMA-Factory's cli.py): a process a node is a rank; several are what kt does not
    /// start, and says who does.
    /// </summary>
    private static Launch? AsLlamaFactory(Func<string, string?> get, Func<string, int?> number)
    {
        var isForced = get("FORCE_TORCHRUN")?.ToUpperInvariant() is "1" or "TRUE";
        var (nodes, node, each) = (get("NNODES"), get("NODE_RANK"), number("NPROC_PER_NODE") ?? 1);
        if (!isForced && (node is null || get("MASTER_ADDR") is null)) return null; // schedulers set NNODES too
        var world = nodes is null ? 1 : number("NNODES")!.Value;
        if (world * each <= 1)
            return !isForced ? null : Alone with
            {
                Note = "FORCE_TORCHRUN asks for a process a card: kt is one process here; "
                + "mpirun -n CARDS ./kt … starts one a card, and cards: all lays the layers of one over all of them",
            };
        var (master, port) = (get("MASTER_ADDR"), number("MASTER_PORT") ?? DefaultPort);
        if (each > 1)
            throw new ArgumentException($"NPROC_PER_NODE={each} asks for {each} processes on this node, which kt does not start itself; type instead: "
                + (world == 1 ? $"mpirun -n {each} ./kt train CONFIG.yaml" : $"torchrun --no-python --nnodes {world} --node-rank {node ?? "RANK"} "
                + $"--nproc-per-node {each} --master-addr {master ?? "HOST"} --master-port {port} ./kt train CONFIG.yaml, on every node; or once: "
                + $"mpirun --host {master ?? "HOST"}:{each},… ./kt train CONFIG.yaml"));
        ArgumentException Lacks(string name, string what) => new($"the environment has NNODES={world}, but no {name}: wanted {what}");
        return new Launch(Launcher.Environment, number("NODE_RANK") ?? throw Lacks("NODE_RANK", "the number of this node, from 0"), world, 0, 1,
            master ?? throw Lacks("MASTER_ADDR", "the host of node 0"), port);
    }

    /// <summary>
    /// Before the driver starts, the card of this rank becomes the only one that it shows: null, where that is so already, or where a rank has its host for
    /// itself and `cards` says how many it takes.
    /// </summary>
    /// <param name="shown">CUDA_VISIBLE_DEVICES; null: not set.</param>
    public string? CardToShow(string? shown)
    {
        string[]? all = shown?.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        if (all is { Length: <= 1 } || LocalWorld == 1) return null;
        if (all is not null && LocalRank >= all.Length)
            throw new ArgumentException($"this is rank {LocalRank} of its host, but CUDA_VISIBLE_DEVICES shows {all.Length} cards: start one rank a card");
        return all?[LocalRank] ?? LocalRank.ToString(CultureInfo.InvariantCulture);
    }

    /// <summary>The first host of Slurm's list: `gpu[003-007,9],login` → `gpu003`.</summary>
    public static string FirstHost(string list)
    {
        ArgumentNullException.ThrowIfNull(list);
        var bracket = list.IndexOf('[', StringComparison.Ordinal);
        var comma = list.IndexOf(',', StringComparison.Ordinal);
        if (bracket < 0 || (comma >= 0 && comma < bracket)) return comma < 0 ? list : list[..comma];
        var end = list.IndexOfAny(['-', ',', ']'], bracket);
        return end < 0 ? list[..bracket] : list[..bracket] + list[(bracket + 1)..end];
    }

    private Launch Checked()
    {
        if (Rank >= World) throw new ArgumentException($"the environment says that this is rank {Rank} of {World}: ranks are numbered from 0");
        if (LocalWorld > 0 && LocalRank >= LocalWorld)
            throw new ArgumentException($"the environment says that this is rank {LocalRank} of {LocalWorld} on its host: they are numbered from 0");
        if (By is Launcher.Environment or Launcher.Slurm && (Master.Length == 0 || Port is < 1 or > 65535))
            throw new ArgumentException($"the environment says that rank 0 listens at '{Master}:{Port}': set MASTER_ADDR to its host and MASTER_PORT to a "
                + "free port there");
        return this;
    }
}
