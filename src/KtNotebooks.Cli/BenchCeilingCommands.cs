using System.CommandLine;

using KtNotebooks.Bench;
using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Cli;

/// <summary>`kt bench pcie` and `kt bench gemm`: what the machine can do at most.</summary>
internal static class BenchCeilingCommands
{
    public static Command CreatePcie()
    {
        var card = new Option<int>("--card") { Description = "number of the card" };
        var megabytes = new Option<int>("--mb") { Description = "MiB of a copy", DefaultValueFactory = _ => 512 };
        var command = new Command("pcie", "GB/s of copies: host to host, to the card, back, both ways, on the card") { card, megabytes };
        command.SetAction(parsed => Print(Ceilings.Copies(parsed.GetValue(card), (long)parsed.GetValue(megabytes) << 20)));
        return command;
    }

    public static Command CreateGemm()
    {
        var card = new Option<int>("--card") { Description = "number of the card" };
        var size = new Option<int>("--size") { Description = "rows and columns on the card", DefaultValueFactory = _ => 8192 };
        var hostSize = new Option<int>("--host-size") { Description = "rows and columns on the CPU", DefaultValueFactory = _ => 2048 };
        var command = new Command("gemm", "TFLOP/s of a large BF16 product, on the CPU and on the card where there is one; checked first") { card, size,
            hostSize };
        command.SetAction(parsed =>
        {
            Print([Ceilings.HostProduct(parsed.GetValue(hostSize))]);
            if (CudaDevice.Missing is { } missing) Console.WriteLine($"  no card: {missing}");
            else Print([Ceilings.GpuProduct(parsed.GetValue(card), parsed.GetValue(size))]);
        });
        return command;
    }

    private static void Print(IEnumerable<Ceiling> ceilings)
    {
        foreach (var c in ceilings) Console.WriteLine($"  {c.What,-60}{c.Rate,10:F1} {c.Unit,-8} ({c.Slowest:F1} to {c.Fastest:F1})");
    }
}
