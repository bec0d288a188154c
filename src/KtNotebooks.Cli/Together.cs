using KtNotebooks.Distributed;
using KtNotebooks.Evaluation;
using KtNotebooks.Interop;

namespace KtNotebooks.Cli;

/// <summary>Commands that mpirun, srun or torchrun may start many times: the processes join, and the first one speaks for all.</summary>
internal static class Together
{
    private const int Output = 1;

    /// <summary>
    /// The ranks of this command; one alone where nobody started several. Only the first one has an output from here on; lines about what is wrong stay.
    /// </summary>
    public static ICollective Join(CancellationToken cancel)
    {
        var ranks = Ranks.Join(End, Console.Error.WriteLine, cancel);
        if (ranks.World == 1) return ranks;
        if (!ranks.IsFirst()) Terminal.Silence(Output);
        ProgressLine.IsPlain = true; // what a launcher passes on is no terminal, though it may look like one
        return ranks;
    }

    /// <summary>What one process does: many would do it many times.</summary>
    public static RemoteRun? Alone(ICollective ranks, RemoteRun? run) => run is null || ranks.World == 1 ? run
        : throw new ArgumentException("a model behind a URL is asked by one process: start this without mpirun, srun or torchrun");

    /// <exception cref="ArgumentException">A launcher has started many of what one process does.</exception>
    public static void RequireOne(string command)
    {
        if (Launch.Read(Environment.GetEnvironmentVariable) is { World: > 1 and var world })
            throw new ArgumentException($"{command} is done by one process, and a launcher started {world}: start it without mpirun, srun or torchrun");
    }

    private static void End(string line, int code)
    {
        if (line.Length > 0) Failures.Refuse(line);
        Terminal.EndNow(code);
    }
}
