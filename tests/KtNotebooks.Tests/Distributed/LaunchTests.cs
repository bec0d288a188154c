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
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a MASTER_PORT=5 TORCHELASTIC_USE_AGENT_STORE=True", "Environment 1/2 0/0 a:6")] // torchrun listens at 5
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_RANK=2", "Mpi 2/3 0/0 :0")]
    [InlineData("WORLD_SIZE=2 RANK=1 MASTER_ADDR=a OMPI_COMM_WORLD_SIZE=3 OMPI_COMM_WORLD_RANK=2 TORCHELASTIC_RUN_ID=x", "Environment 1/2 0/0 a:29500")]
    [InlineData("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_JOB_ID=12345 SLURM_STEP_NODELIST=gpu[07-08]",
        "Slurm 1/2 1/0 gpu07:29845")]
    [InlineData("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_PROCID=1 PMIX_RANK=1", "Mpi 1/2 0/0 :0")]
    [InlineData("SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_JOB_ID=1", "None 0/1 0/1 :0")] // the script of sbatch
    public void Launchers_are_understood(string environment, string expected)
    {
        var launch = Launch.Read(Variables(environment));
        Assert.Equal(expected, $"{launch.By} {launch.Rank}/{launch.World} {launch.LocalRank}/{launch.LocalWorld} {launch.Master}:{launch.Port}");
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
    public void What_cannot_be_is_refused(string environment, string error) =>
        Assert.Equal(error, Assert.Throws<ArgumentException>(() => Launch.Read(Variables(environment))).Message);

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
