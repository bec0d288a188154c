using System.Diagnostics;

using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>kt below srun of a real Slurm.</summary>
public sealed class SlurmTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private string Out(string name) => Path.Combine(_place.Root, name);

    private string[] Srun(string mpi, string output, params string[] pairs) => ["--overcommit", "-n", "2", $"--mpi={mpi}", Kt.Program,
        .. _place.Train([$"output_dir={Out(output)}", "plot_loss=false", .. pairs])];

    [Fact]
    public void Srun_starts_ranks_with_and_without_MPI_and_names_one_that_is_killed()
    {
        using var slurm = new Slurm();
        foreach (var (mpi, carrier) in new[] { ("none", "TCP"), ("pmi2", "TCP"), ("pmix", "MPI") })
        {
            using var srun = slurm.Srun(Srun(mpi, mpi, "max_steps=3"));
            var end = srun.End();
            end.RequireDone();
            Assert.Contains($"2 ranks on 1 host(s), summed by {carrier}: ", end.Output, StringComparison.Ordinal);
        }
        byte[] Adapter(string output) => File.ReadAllBytes(Path.Combine(Out(output), "adapter_model.safetensors"));
        Assert.Equal(Adapter("none"), Adapter("pmi2"));
        Assert.Equal(Adapter("none"), Adapter("pmix")); // both add in the order of the ranks

        using var lost = slurm.Srun(Srun("none", "lost", "max_steps=100000", "save_steps=2", "save_total_limit=2"));
        lost.Until(() => Checkpoints.Newest(Out("lost")) is not null);
        using (var kill = Process.Start("kill", ["-KILL", $"{Launched.ProcessOf(Out("lost"), "SLURM_PROCID=1")}"])) kill.WaitForExit();
        var watch = Stopwatch.StartNew();
        var (exit, _, errors) = lost.End();
        Assert.InRange(watch.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(10)); // the number of the issue
        Assert.NotEqual(0, exit);
        Assert.Matches(@"kt: rank 1 on \S+ \(process \d+\) has ended without a word", errors);
    }
}
