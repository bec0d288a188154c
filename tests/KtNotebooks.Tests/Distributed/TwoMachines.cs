using System.Diagnostics;

using KtNotebooks.Tests.Cli;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>Two network namespaces with a cable between them: as far as ranks can see, two machines.</summary>
internal sealed class TwoMachines : IDisposable
{
    /// <summary>The first one's address.</summary>
    public const string First = "10.213.7.1";

    private static int _count; // tests run beside each other
    private readonly string[] _spaces;
    private readonly List<string> _made = [];

    public TwoMachines()
    {
        var name = $"kt{Environment.ProcessId}-{Interlocked.Increment(ref _count)}";
        _spaces = [$"{name}a", $"{name}b"];
        var missing = Environment.UserName != "root" ? "network namespaces need root" : Ip("netns", "add", _spaces[0]);
        Require.Hardware("netns", missing);
        _made.Add(_spaces[0]);
        Ok("netns", "add", _spaces[1]);
        _made.Add(_spaces[1]);
        Ok("-n", _spaces[0], "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", _spaces[1]);
        foreach (var (space, device, address) in new[] { (_spaces[0], "va", First), (_spaces[1], "vb", "10.213.7.2") })
        {
            Ok("-n", space, "addr", "add", $"{address}/24", "dev", device);
            Ok("-n", space, "link", "set", device, "up");
            Ok("-n", space, "link", "set", "lo", "up");
        }
    }

    /// <summary>kt on one of them.</summary>
    public Kt Start(int machine, (string Name, string Value)[] variables, string[] arguments) =>
        Kt.StartBy("ip", variables, ["netns", "exec", _spaces[machine], Kt.Program, .. arguments]);

    /// <summary>The cable is out.</summary>
    public void Cut() => Ok("-n", _spaces[1], "link", "set", "vb", "down");

    public void Dispose()
    {
        foreach (var space in _made) Ip("netns", "del", space);
    }

    private static void Ok(params string[] arguments) => Assert.Null(Ip(arguments));

    /// <summary>What went wrong, or null.</summary>
    private static string? Ip(params string[] arguments)
    {
        try
        {
            using var ip = Process.Start(new ProcessStartInfo("ip", arguments) { RedirectStandardError = true })!;
            var error = ip.StandardError.ReadToEnd();
            ip.WaitForExit();
            return ip.ExitCode == 0 ? null : $"ip {string.Join(' ', arguments)}: {error.Trim()}";
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return "ip is not there (Debian: iproute2)";
        }
    }
}
