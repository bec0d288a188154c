using System.ComponentModel;
using System.Diagnostics;
using System.Runtime.InteropServices;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Planning;

/// <summary>What this machine has of what the engine can use.</summary>
/// <param name="Lines">Name and text, in the order in which a person reads them.</param>
/// <param name="Advice">What is missing, and what to type for it.</param>
public sealed record MachineFacts(IReadOnlyList<(string What, string Text)> Lines, IReadOnlyList<string> Advice)
{
    public static MachineFacts Read()
    {
        List<(string, string)> lines = [("system", $"{RuntimeInformation.OSDescription}, .NET {Environment.Version}")];
        List<string> advice = [];
        Processor(lines, advice);
        Memory(lines, advice);
        lines.Add(("disk", $"{ByteSize.Text(Machine.Here(Environment.CurrentDirectory).DiskFree)} free in {Environment.CurrentDirectory}"));
        Gpus(lines, advice);
        Fonts(lines, advice);
        return new MachineFacts(lines, advice);
    }

    private static void Processor(List<(string, string)> lines, List<string> advice)
    {
        lines.Add(("processor", $"{Cpuinfo("model name")}, {Environment.ProcessorCount} processors for this process"));
        lines.Add(("CPU kernels", $"{Cpu.Variant}, {Cpu.Threads} threads; here run {string.Join(", ", Cpu.Variants)}"));
        if (!Cpu.IsNative) advice.Add("no native CPU kernels, everything on the CPU is slow: sudo apt-get install -y g++ cmake make, then ./kt doctor again");
        else if (Cpuinfo("flags").Split(' ').Contains("amx_tile") && !Cpu.Variants.Contains("amx"))
            advice.Add("the processor has AMX, but the system does not grant it: a kernel of 5.16 or newer is needed, and a virtual machine that passes AMX "
                + "on");
        var nodes = Directory.Exists("/sys/devices/system/node") ? Directory.GetDirectories("/sys/devices/system/node", "node*").Length : 1;
        lines.Add(("NUMA nodes", $"{nodes}{(nodes > 1 ? ": weights are spread by the threads that touch them first" : "")}"));
    }

    private static void Memory(List<(string, string)> lines, List<string> advice)
    {
        var memory = HostMemory.Read();
        var (total, free) = (memory.GetValueOrDefault("MemTotal"), memory.GetValueOrDefault("MemAvailable"));
        lines.Add(("memory", $"{ByteSize.Text(free)} of {ByteSize.Text(total)} available, {ByteSize.Text(memory.GetValueOrDefault("SwapTotal"))} swap"));
        if (total is > 0 and < 8L << 30)
            advice.Add($"{ByteSize.Text(total)} of memory train the built-in model; for a larger one kt plan says what it needs before anything is loaded");
    }

    private static void Gpus(List<(string, string)> lines, List<string> advice)
    {
        if (CudaDevice.Missing is { } missing)
        {
            lines.Add(("cards", "none"));
            advice.Add($"no card, so everything is computed on the CPU: {missing}");
            return;
        }
        lines.Add(("driver", $"for CUDA {CudaDevice.DriverVersion / 1000}.{CudaDevice.DriverVersion % 1000 / 10}"));
        for (var i = 0; i < CudaDevice.Count; i++)
        {
            try
            {
                var card = CudaDevice.Get(i);
                lines.Add(($"cuda:{i}", $"{card.Name}, sm_{card.Architecture}, {card.Multiprocessors} multiprocessors, {ByteSize.Text(card.FreeBytes)} of "
                    + $"{ByteSize.Text(card.TotalBytes)} free"));
            }
            catch (Exception error) when (error is NotSupportedException or FileNotFoundException or KtNativeException)
            {
                lines.Add(($"cuda:{i}", "cannot be used"));
                advice.Add(error.Message);
            }
        }
        lines.AddRange(CudaDevice.LoadedLibraries.Select(l => (l.Key, l.Value)));
    }

    /// <summary>What to type where Chinese letters would be boxes.</summary>
    public const string FontAdvice = "no font here has Chinese letters, so browsers and pictures show boxes: sudo apt-get install -y fonts-wqy-microhei";

    /// <summary>Browsers and PNGs take Chinese letters from the system, where there is a font that has them.</summary>
    private static void Fonts(List<(string, string)> lines, List<string> advice)
    {
        try
        {
            var start = new ProcessStartInfo("fc-list", [":lang=zh", "family"]) { RedirectStandardOutput = true, RedirectStandardError = true };
            using var list = Process.Start(start)!;
            var family = list.StandardOutput.ReadLine();
            list.StandardOutput.ReadToEnd();
            list.WaitForExit();
            lines.Add(("Chinese font", family is null ? "none" : family.Split(',')[0]));
            if (family is null) advice.Add(FontAdvice);
        }
        catch (Win32Exception)
        {
            // No fontconfig, so this is no machine that people look at.
        }
    }

    private static string Cpuinfo(string key) =>
        File.Exists("/proc/cpuinfo") && File.ReadLines("/proc/cpuinfo").FirstOrDefault(l => l.StartsWith(key, StringComparison.Ordinal)) is { } line
            ? line[(line.IndexOf(':') + 1)..].Trim() : "unknown";
}
