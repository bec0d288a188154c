using System.Net;
using System.Net.Sockets;

using KtNotebooks.Tests.Cli;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>kt as real ranks: by mpirun, or each as torchrun starts it.</summary>
internal static class Launched
{
    private static readonly (string, string)[] AsRoot = [("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")];

    /// <summary>Why there is no mpirun, or null.</summary>
    private static string? Missing => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Any(bin => File.Exists(Path.Combine(bin, "mpirun"))) ? null
        : "mpirun is not on the PATH (Debian: openmpi-bin)";

    public static Kt Mpirun(int ranks, params string[] arguments)
    {
        Require.Hardware("mpi", Missing);
        // Many tests run beside each other, on few processors.
        return Kt.StartBy("mpirun", AsRoot, ["--oversubscribe", "--bind-to", "none", "-n", $"{ranks}", Kt.Program, .. arguments]);
    }

    /// <summary>Each with RANK, WORLD_SIZE and MASTER_ADDR; their arguments may differ.</summary>
    public static Kt[] ByEnvironment(int ranks, Func<int, string[]> arguments, params (string Name, string Value)[] more)
    {
        var port = FreePort();
        return [.. Enumerable.Range(0, ranks).Select(rank => Kt.StartWith([.. Variables(rank, ranks, "127.0.0.1", port), .. more], arguments(rank)))];
    }

    public static (string, string)[] Variables(int rank, int ranks, string master, int port) =>
        [("RANK", $"{rank}"), ("WORLD_SIZE", $"{ranks}"), ("LOCAL_RANK", $"{rank}"), ("MASTER_ADDR", master), ("MASTER_PORT", $"{port}")];

    public static int FreePort()
    {
        using var any = new TcpListener(IPAddress.Loopback, 0);
        any.Start();
        return ((IPEndPoint)any.LocalEndpoint).Port;
    }

    /// <summary>The process of a rank below mpirun.</summary>
    public static int ProcessOf(Kt mpirun, int rank)
    {
        foreach (var process in Directory.GetDirectories("/proc").Where(p => int.TryParse(Path.GetFileName(p), out _)))
        {
            try
            {
                if (File.ReadLines(Path.Combine(process, "status")).Contains($"PPid:\t{mpirun.Id}")
                    && File.ReadAllText(Path.Combine(process, "environ")).Split('\0').Contains($"OMPI_COMM_WORLD_RANK={rank}"))
                    return int.Parse(Path.GetFileName(process));
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                // It has ended meanwhile.
            }
        }
        throw new InvalidOperationException($"mpirun has no rank {rank}");
    }

    public static void RequireDone(this (int Exit, string Output, string Errors) end) =>
        Assert.True(end.Exit == 0, $"exit {end.Exit}\n{end.Output}\n{end.Errors}");

    /// <summary>The process of a rank that another program started.</summary>
    /// <param name="output">Its output_dir.</param>
    /// <param name="rank">What its environment says: `RANK=1`.</param>
    public static int ProcessOf(string output, string rank) => Directory.GetDirectories("/proc").Select(Path.GetFileName)
        .Where(name => int.TryParse(name, out _)).Select(name => int.Parse(name!)).First(id =>
        {
            try
            {
                return File.ReadAllText($"/proc/{id}/cmdline").Split('\0') is [var first, ..] all && first == Kt.Program && all.Contains($"output_dir={output}")
                    && File.ReadAllText($"/proc/{id}/environ").Split('\0').Contains(rank);
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                return false; // it has ended meanwhile
            }
        });
}
