using System.Diagnostics;

using KtNotebooks.Tests.Cli;

namespace KtNotebooks.Tests.Distributed;

/// <summary>A real Slurm of one node, this machine: munged, slurmctld and slurmd of our own in a folder, without systemd and without cgroups.</summary>
internal sealed class Slurm : IDisposable
{
    private static readonly TimeSpan Ready = TimeSpan.FromSeconds(20);
    private readonly string _folder = Directory.CreateTempSubdirectory("kt-slurm-").FullName;
    private readonly List<Process> _daemons = [];
    private readonly string _config;

    public Slurm()
    {
        _config = Path.Combine(_folder, "slurm.conf");
        string? missing = Environment.UserName != "root" ? "its daemons need root"
            : FirstMissing(["munged", "slurmctld", "slurmd", "srun"]) is { } program ? $"{program} is not on the PATH (Debian: slurm-wlm, munge)" : Begin();
        if (missing is not null) Dispose();
        Require.Hardware("slurm", missing);
    }

    /// <summary>srun with its arguments, which name kt.</summary>
    public Kt Srun(params string[] arguments) => Kt.StartBy("srun", [("SLURM_CONF", _config)], arguments);

    public void Dispose()
    {
        foreach (var daemon in Enumerable.Reverse(_daemons))
        {
            if (!daemon.HasExited) daemon.Kill();
            daemon.WaitForExit();
            daemon.Dispose();
        }
        // A step's own process outlives slurmd, and would look for slurmctld for ever; it stands in the folder where slurmd stood.
        foreach (var step in Process.GetProcessesByName("slurmstepd"))
            using (step)
                if (new FileInfo($"/proc/{step.Id}/cwd").LinkTarget == _folder) step.Kill();
        Directory.Delete(_folder, recursive: true);
    }

    private static string? FirstMissing(string[] programs) =>
        programs.FirstOrDefault(name => !Folders.Any(folder => File.Exists(Path.Combine(folder, name))));

    private static IEnumerable<string> Folders => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Append("/usr/sbin");

    /// <summary>Why it does not run here, or null.</summary>
    private string? Begin()
    {
        if (OperatingSystem.IsWindows()) return "its daemons are for Linux";
        foreach (var name in (string[])["state", "spool"]) Directory.CreateDirectory(Path.Combine(_folder, name));
        File.SetUnixFileMode(_folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute | UnixFileMode.GroupExecute
            | UnixFileMode.OtherExecute); // munged wants its socket reachable by all
        string At(string name) => Path.Combine(_folder, name);
        using (var key = File.Open(At("munge.key"), new FileStreamOptions
        {
            Mode = FileMode.Create,
            Access = FileAccess.Write,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        }))
            key.Write(System.Security.Cryptography.RandomNumberGenerator.GetBytes(1024));
        var host = Environment.MachineName.Split('.')[0];
        File.WriteAllText(_config, $"""
            ClusterName=kt
            SlurmctldHost={host}(127.0.0.1)
            SlurmUser=root
            AuthType=auth/munge
            AuthInfo=socket={At("munge.socket")}
            SlurmctldPort={Launched.FreePort()}
            SlurmdPort={Launched.FreePort()}
            StateSaveLocation={At("state")}
            SlurmdSpoolDir={At("spool")}
            SlurmctldPidFile={At("slurmctld.pid")}
            SlurmdPidFile={At("slurmd.pid")}
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core
            ReturnToService=2
            NodeName={host} NodeAddr=127.0.0.1 CPUs={Environment.ProcessorCount} State=UNKNOWN
            PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP

            """);
        Daemon("munged", "--foreground", "--force", $"--key-file={At("munge.key")}", $"--socket={At("munge.socket")}", $"--pid-file={At("munged.pid")}",
            $"--log-file={At("munged.log")}", $"--seed-file={At("munged.seed")}");
        Daemon("slurmctld", "-D", "-f", _config, "-L", At("slurmctld.log"));
        Daemon("slurmd", "-D", "-f", _config, "-L", At("slurmd.log"));
        var watch = Stopwatch.StartNew();
        while (watch.Elapsed < Ready)
        {
            if (_daemons.FirstOrDefault(d => d.HasExited) is { } ended) return $"{Path.GetFileName(ended.StartInfo.FileName)} has ended: {Last()}";
            using var sinfo = Kt.StartBy("sinfo", [("SLURM_CONF", _config)], ["-h", "-o", "%T"]);
            if (sinfo.End().Output.Contains("idle", StringComparison.Ordinal)) return null;
            Thread.Sleep(100);
        }
        return $"its node is not idle within {Ready.TotalSeconds:0} s: {Last()}";

        string Last() => string.Join("; ", Directory.GetFiles(_folder, "*.log").Select(log => File.ReadLines(log).LastOrDefault("")));
    }

    private void Daemon(string program, params string[] arguments) => _daemons.Add(Process.Start(new ProcessStartInfo(
        Folders.Select(folder => Path.Combine(folder, program)).First(File.Exists), arguments)
    {
        WorkingDirectory = _folder,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
    })!);
}
