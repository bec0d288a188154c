using System.CommandLine;
using System.Runtime.InteropServices;

using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Cli;

/// <summary>`kt doctor`: what this machine has of what the engine can use, and what to type for the rest.</summary>
internal static class DoctorCommand
{
    public static Command Create()
    {
        var command = new Command("doctor", "Show processor, memory, cards and libraries, and what to type for what is missing");
        command.SetAction(_ => Run());
        return command;
    }

    private static int Run()
    {
        List<string> advice = [];
        Line("system", $"{RuntimeInformation.OSDescription}, .NET {Environment.Version}");
        Processor(advice);
        HostMemory(advice);
        Cards(advice);
        Console.WriteLine();
        if (advice.Count == 0) Console.WriteLine("nothing is missing");
        foreach (var line in advice) Console.WriteLine($"- {line}");
        return 0;
    }

    private static void Processor(List<string> advice)
    {
        Line("processor", $"{Model()}, {Environment.ProcessorCount} processors for this process");
        Line("CPU kernels", $"{Cpu.Variant}, {Cpu.Threads} threads; here run {string.Join(", ", Cpu.Variants)}");
        if (!Cpu.IsNative) advice.Add("no native CPU kernels, everything on the CPU is slow: sudo apt-get install -y g++ cmake make, then ./kt doctor again");
        else if (Flags().Contains("amx_tile") && !Cpu.Variants.Contains("amx")) advice.Add("the processor has AMX, but the system does not grant it: a kernel of 5.16 or newer is needed, and a virtual machine that passes AMX on");
        var nodes = Directory.Exists("/sys/devices/system/node") ? Directory.GetDirectories("/sys/devices/system/node", "node*").Length : 1;
        Line("NUMA nodes", $"{nodes}{(nodes > 1 ? ": weights are spread by the threads that touch them first" : "")}");
    }

    private static void HostMemory(List<string> advice)
    {
        var memory = Tensors.HostMemory.Read();
        var (total, free) = (memory.GetValueOrDefault("MemTotal"), memory.GetValueOrDefault("MemAvailable"));
        Line("memory", $"{Gb(free)} of {Gb(total)} available, {Gb(memory.GetValueOrDefault("SwapTotal"))} swap");
        if (total is > 0 and < 8L << 30) advice.Add($"{Gb(total)} of memory train the built-in model; DeepSeek-V2-Lite in BF16 takes 31 GB, in 4 bits 9 GB: kt plan CONFIG tells before anything is loaded");
    }

    private static void Cards(List<string> advice)
    {
        if (CudaDevice.Missing is { } missing)
        {
            Line("cards", "none");
            advice.Add($"no card: {missing}");
            return;
        }
        Line("driver", $"for CUDA {CudaDevice.DriverVersion / 1000}.{CudaDevice.DriverVersion % 1000 / 10}");
        for (var i = 0; i < CudaDevice.Count; i++)
        {
            try
            {
                var card = CudaDevice.Get(i);
                Line($"cuda:{i}", $"{card.Name}, sm_{card.Architecture}, {card.Multiprocessors} multiprocessors, {Gb(card.FreeBytes)} of {Gb(card.TotalBytes)} free");
            }
            catch (Exception error) when (error is NotSupportedException or FileNotFoundException or KtNativeException)
            {
                Line($"cuda:{i}", "cannot be used");
                advice.Add(error.Message);
            }
        }
        foreach (var (name, path) in CudaDevice.LoadedLibraries) Line(name, path);
    }

    private static string Model() => Cpuinfo("model name");

    private static string[] Flags() => Cpuinfo("flags").Split(' ');

    private static string Cpuinfo(string key) => File.Exists("/proc/cpuinfo") && File.ReadLines("/proc/cpuinfo").FirstOrDefault(l => l.StartsWith(key, StringComparison.Ordinal)) is { } line ? line[(line.IndexOf(':') + 1)..].Trim() : "unknown";

    private static string Gb(long bytes) => $"{bytes / 1e9:F1} GB";

    private static void Line(string what, string text) => Console.WriteLine($"{what,-14}{text}");
}
