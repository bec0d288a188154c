using System.Globalization;

namespace KtNotebooks.Distributed;

/// <summary>Who started the ranks, which decides how they find each other.</summary>
public enum Launcher
{
    /// <summary>Nobody: one process.</summary>
    None,

    /// <summary>mpirun of Open MPI, or srun --mpi=pmix.</summary>
    Mpi,

    /// <summary>torchrun, or anyone who sets RANK, WORLD_SIZE and MASTER_ADDR.</summary>
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

    public static Launch Alone { get; } = new(Launcher.None, 0, 1, 0, 1);

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
        if (Number("WORLD_SIZE") is > 1 and var world)
        {
            // torchrun's own store listens at MASTER_PORT.
            var isTaken = string.Equals(Get("TORCHELASTIC_USE_AGENT_STORE"), "true", StringComparison.OrdinalIgnoreCase);
            var port = (Number("MASTER_PORT") ?? DefaultPort) + (isTaken ? 1 : 0);
            var rank = Required("RANK");
            return new Launch(Launcher.Environment, rank, world, Number("LOCAL_RANK") ?? 0, Number("LOCAL_WORLD_SIZE") ?? 0,
                Get("MASTER_ADDR") ?? throw new ArgumentException($"the environment has WORLD_SIZE={world}, but no MASTER_ADDR: wanted the host of rank 0"),
                port).Checked();
        }
        // Only a step of srun has both: the script of sbatch is one process, however many tasks the job has.
        if (Number("SLURM_STEP_NUM_TASKS") is > 1 and var tasks && Get("SLURM_PROCID") is not null && Get("SLURM_STEP_ID") is not null)
        {
            var (rank, local) = (Required("SLURM_PROCID"), Number("SLURM_LOCALID") ?? 0);
            if (Get("PMIX_RANK") is not null) return new Launch(Launcher.Mpi, rank, tasks, local, 0).Checked();
            var (job, hosts) = (Number("SLURM_JOB_ID") ?? 0, Get("SLURM_STEP_NODELIST") ?? Get("SLURM_JOB_NODELIST") ?? "");
            return new Launch(Launcher.Slurm, rank, tasks, local, 0, Get("MASTER_ADDR") ?? FirstHost(hosts),
                Number("MASTER_PORT") ?? DefaultPort + (job % 1000)).Checked();
        }
        if (Number("PMI_SIZE") is > 1 and var others && Get("PMIX_RANK") is null)
            throw new ArgumentException($"{others} processes were started by an MPI that is not Open MPI (PMI_SIZE is set, OMPI_COMM_WORLD_SIZE is not): "
                + "MPICH's handles are others; use Open MPI's mpirun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each process");
        return Alone;

        int Required(string name) => Number(name) ?? throw new ArgumentException($"the environment says that there are several ranks, but has no {name}");
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
