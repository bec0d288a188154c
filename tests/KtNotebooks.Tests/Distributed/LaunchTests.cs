using KtNotebooks.Distributed;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>Which rank a process is, as launchers say it.</summary>
public class LaunchTests
{
    [Theory]
    [InlineData("", "None 0/1 0/1 :0")]
    [InlineData("WORLD_SIZE=1 RANK=0", "None 0/1 0/1 :0")]
    [InlineData("OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2", "Mpi 3/4 1/2 :0")]
    [InlineData("WORLD_SIZE=4 RANK=3 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1234", "Environment 3/4 1/2 a:1234")]
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a", "Environment 1/2 0/0 a:29500")]
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a MASTER_PORT=5 TORCHELASTIC_USE_AGENT_STORE=True", "Environment 1/2 0/0 a:1005")] // torchrun listens at 5
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a MASTER_PORT=65000 TORCHELASTIC_USE_AGENT_STORE=True", "Environment 1/2 0/0 a:64000")]
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a MASTER_PORT=5 TORCHELASTIC_USE_AGENT_STORE=False", "Environment 1/2 0/0 a:5")] // or it has left it free
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_RANK=2", "Mpi 2/3 0/0 :0")]
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_RANK=2 TORCHELASTIC_RUN_ID=x", "Environment 1/2 0/0 a:29500")]
    [InlineData("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_JOB_ID=12345 SLURM_STEP_NODELIST=gpu[07-08]",
        "Slurm 1/2 1/0 gpu07:29845")]
    [InlineData("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=1 SLURM_PROCID=1 SLURM_JOB_ID=12345 SLURM_STEP_NODELIST=a", "Slurm 1/2 0/0 a:29882")] // another step
    [InlineData("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=1 SLURM_PROCID=1 WORLD_SIZE=2 MASTER_ADDR=b MASTER_PORT=7", "Slurm 1/2 0/0 b:7")] // no RANK
    [InlineData("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=1 SLURM_PROCID=1 WORLD_SIZE=8 RANK=5 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=b", // torchrun by srun
        "Environment 5/8 1/4 b:29500")]
    [InlineData("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_PROCID=1 PMIX_RANK=1", "Mpi 1/2 0/0 :0")]
    [InlineData("FORCE_TORCHRUN=1 NNODES=2 NODE_RANK=1 MASTER_ADDR=a MASTER_PORT=7", "Environment 1/2 0/1 a:7")] // llamafactory-cli
    [InlineData("FORCE_TORCHRUN=true NNODES=2 NODE_RANK=0 MASTER_ADDR=a NPROC_PER_NODE=1", "Environment 0/2 0/1 a:29500")]
    [InlineData("NNODES=2 NODE_RANK=1 MASTER_ADDR=a", "Environment 1/2 0/1 a:29500")]
    [InlineData("NNODES=2", "None 0/1 0/1 :0")] // a scheduler's
    [InlineData("FORCE_TORCHRUN=1", "None 0/1 0/1 :0 FORCE_TORCHRUN asks for a process a card: kt is one process here; mpirun -n CARDS ./kt … starts one a "
        + "card, and cards: all lays the layers of one over all of them")]
    [InlineData("FORCE_TORCHRUN=0", "None 0/1 0/1 :0")]
    [InlineData("SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_JOB_ID=1", "None 0/1 0/1 :0")] // the script of sbatch
    public void Launchers_are_understood(string environment, string expected)
    {
        var launch = Launch.Read(Variables(environment));
        Assert.Equal(expected, ($"{launch.By} {launch.Rank}/{launch.World} {launch.LocalRank}/{launch.LocalWorld} {launch.Master}:{launch.Port} "
            + launch.Note).TrimEnd());
    }

    [Theory]
    [InlineData("WORLD_SIZE=2 RANK=0", "the environment has WORLD_SIZE=2, but no MASTER_ADDR: wanted the host of rank 0")]
    [InlineData("WORLD_SIZE=2 MASTER_ADDR=a", "the environment says that there are several ranks, but has no RANK")]
    [InlineData("WORLD_SIZE=2 RANK=2 MASTER_ADDR=a", "the environment says that this is rank 2 of 2: ranks are numbered from 0")]
    [InlineData("WORLD_SIZE=two", "the environment has WORLD_SIZE=two: wanted a number")]
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a MASTER_PORT=0",
        "the environment says that rank 0 listens at 'a:0': set MASTER_ADDR to its host and MASTER_PORT to a free port there")]
    [InlineData("PMI_SIZE=2 PMI_RANK=0", "2 processes were started by an MPI that is not Open MPI (PMI_SIZE is set, OMPI_COMM_WORLD_SIZE is not): MPICH's "
        + "handles are others; use Open MPI's mpirun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each process")]
    [InlineData("FORCE_TORCHRUN=1 NPROC_PER_NODE=4",
        "NPROC_PER_NODE=4 asks for 4 processes on this node, which kt does not start itself; type instead: mpirun -n 4 ./kt train CONFIG.yaml")]
    [InlineData("FORCE_TORCHRUN=1 NPROC_PER_NODE=4 NNODES=2 NODE_RANK=1 MASTER_ADDR=a", "NPROC_PER_NODE=4 asks for 4 processes on this node, which kt does not "
        + "start itself; type instead: torchrun --no-python --nnodes 2 --node-rank 1 --nproc-per-node 4 --master-addr a --master-port 29500 ./kt train "
        + "CONFIG.yaml, on every node; or once: mpirun --host a:4,… ./kt train CONFIG.yaml")]
    [InlineData("FORCE_TORCHRUN=1 NNODES=2 MASTER_ADDR=a", "the environment has NNODES=2, but no NODE_RANK: wanted the number of this node, from 0")]
    [InlineData("FORCE_TORCHRUN=1 NNODES=2 NODE_RANK=0", "the environment has NNODES=2, but no MASTER_ADDR: wanted the host of node 0")]
    [InlineData("FORCE_TORCHRUN=1 NNODES=1:4", "the environment has NNODES=1:4: wanted a number")] // torchrun's way to let nodes come and go
    public void What_cannot_be_is_refused(string environment, string error) =>
        Assert.Equal(error, Assert.Throws<ArgumentException>(() => Launch.Read(Variables(environment))).Message);

    /// <summary>Ranks of a run that torchrun has ended and started again must not meet those of the new one.</summary>
    [Fact]
    public void Another_start_is_another_run()
    {
        string Run(int starts) =>
            Launch.Read(Variables($"WORLD_SIZE=2 RANK=1 MASTER_ADDR=a TORCHELASTIC_RUN_ID=x TORCHELASTIC_RESTART_COUNT={starts}")).Run;
        Assert.Equal(Run(0), Run(0));
        Assert.NotEqual(Run(0), Run(1));
    }

    [Theory]
    [InlineData("WORLD_SIZE=2 RANK=1 LOCAL_RANK=1 MASTER_ADDR=a", null, "1")]
    [InlineData("WORLD_SIZE=2 RANK=1 LOCAL_RANK=1 MASTER_ADDR=a", "4,6", "6")]
    [InlineData("WORLD_SIZE=2 RANK=1 LOCAL_RANK=1 MASTER_ADDR=a", "6", null)] // the launcher has chosen
    [InlineData("WORLD_SIZE=2 RANK=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=a", "4,6", null)] // alone on its host: `cards` says
    [InlineData("NNODES=2 NODE_RANK=1 MASTER_ADDR=a", null, null)]
    public void A_rank_sees_its_card(string environment, string? shown, string? card) =>
        Assert.Equal(card, Launch.Read(Variables(environment)).CardToShow(shown));

    [Fact]
    public void More_ranks_than_cards_are_refused() =>
        Assert.Equal("this is rank 2 of its host, but CUDA_VISIBLE_DEVICES shows 2 cards: start one rank a card",
            Assert.Throws<ArgumentException>(() => Launch.Read(Variables("WORLD_SIZE=3 RANK=2 LOCAL_RANK=2 MASTER_ADDR=a")).CardToShow("0,1")).Message);

    [Theory]
    [InlineData("gpu003", "gpu003")]
    [InlineData("gpu003,gpu004", "gpu003")]
    [InlineData("gpu[003-007,9],login", "gpu003")]
    [InlineData("gpu[7,9]", "gpu7")]
    [InlineData("login,gpu[003-007]", "login")]
    public void The_first_host_of_Slurms_list_is_found(string list, string host) => Assert.Equal(host, Launch.FirstHost(list));

    private static Func<string, string?> Variables(string text)
    {
        var all = text.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(pair => pair.Split('=')).ToDictionary(pair => pair[0], pair => pair[1]);
        return name => all.GetValueOrDefault(name);
    }
}
