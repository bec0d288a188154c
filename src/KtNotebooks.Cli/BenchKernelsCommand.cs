using System.CommandLine;
using System.Text.Json;

using KtNotebooks.Bench;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt bench kernels`: the kernels of a step one by one, each against a copy or a product of the same device.</summary>
internal static class BenchKernelsCommand
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    public static Command Create()
    {
        var rows = new Option<int?>("--rows") { Description = "rows of the activations; 16384 on a card, 4096 on the CPU without it" };
        var width = new Option<int>("--width") { Description = "their width", DefaultValueFactory = _ => 4096 };
        var device = new Option<string>("--device") { Description = "cpu or cuda:N", DefaultValueFactory = _ => CudaDevice.Count > 0 ? "cuda:0" : "cpu" };
        var json = new Option<bool>("--json") { Description = "one JSON object" };
        var command = new Command("kernels",
            "Every kernel of a step but attention and experts: its time, its rate and its share of a copy or a product of the same device; checked "
                + "first") { rows, width, device, json };
        command.SetAction(parsed =>
        {
            var where = Device.Parse(parsed.GetRequiredValue(device));
            var s = new KernelBenchmarkSettings(where, parsed.GetValue(rows) ?? (where.Kind == DeviceKind.Cuda ? 16384 : 4096), parsed.GetValue(width));
            var name = where.Kind == DeviceKind.Cpu ? $"CPU, {Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads" : CudaDevice.Get(where.Index).ToString();
            var figures = KernelBenchmark.Run(s);
            if (parsed.GetValue(json)) Console.WriteLine(JsonSerializer.Serialize(new { Device = name, s.Rows, s.Width, Figures = figures }, Indented));
            else Print(name, s, figures);
        });
        return command;
    }

    private static void Print(string name, KernelBenchmarkSettings s, IEnumerable<KernelFigure> figures)
    {
        Console.WriteLine($"{name}; {s.Rows} rows of {s.Width}; floor: a copy of as many bytes, or the product alone");
        Console.WriteLine($"  {"",-36}{"median",13}{"rate",18}{"floor",14}{"share",8}   error");
        foreach (var f in figures)
            Console.WriteLine($"  {f.Kernel,-36}{f.Ms,10:F3} ms{f.Rate,10:F2} {f.Unit,-7}{f.FloorMs,11:F3} ms{f.Share,8:P0}   {f.Error:E1}");
    }
}
