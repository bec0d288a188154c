using System.CommandLine;

using KtNotebooks.Evaluation;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt verify FOLDER`: does this engine compute what a reference implementation computed?</summary>
internal static class VerifyCommand
{
    public static Command Create()
    {
        var folder = new Argument<string>("FOLDER") { Description = "a golden folder: model/, expected.json, expected.safetensors, adapter_*.safetensors" };
        var dtype = new Option<string>("--dtype") { Description = "f32, bf16, or both", DefaultValueFactory = _ => "both" };
        dtype.AcceptOnlyFromAmong("f32", "bf16", "both");
        var device = new Option<string>("--device") { Description = "cpu or cuda:N", DefaultValueFactory = _ => "cpu" };
        var experts = new Option<string>("--experts")
        {
            Description = "with a card: auto, cpu, streamed, resident or split",
            DefaultValueFactory = _ => "auto",
        };
        experts.AcceptOnlyFromAmong("auto", "cpu", "streamed", "resident", "split");
        var command = new Command("verify", "Compare logits, loss, LoRA gradients, six optimizer steps and greedy tokens with reference numbers")
        {
            folder, dtype, device, experts
        };
        command.SetAction((parsed, cancel) =>
            Task.Run(() => Run(parsed.GetRequiredValue(folder), parsed.GetRequiredValue(dtype),
                Placement(parsed.GetRequiredValue(device), parsed.GetRequiredValue(experts)), cancel)));
        return command;
    }

    /// <summary>Null on the CPU: the model is computed from its mapped files.</summary>
    private static PlacementSettings? Placement(string device, string experts)
    {
        if (Device.Parse(device).Kind == DeviceKind.Cpu)
            return experts is "auto" or "cpu" ? null : throw new ArgumentException($"--experts {experts} needs a card; write --device cuda:0");
        return new PlacementSettings { Device = device, Experts = Enum.Parse<ExecutorKind>(experts, ignoreCase: true) };
    }

    private static int Run(string folder, string dtype, PlacementSettings? placement, CancellationToken cancel)
    {
        var passed = true;
        foreach (var type in dtype switch { "f32" => new[] { DType.F32 }, "bf16" => [DType.BF16], _ => [DType.F32, DType.BF16] })
        {
            var results = GoldenCheck.Run(folder, type, placement, cancel);
            Console.WriteLine($"{Path.GetFileName(Path.TrimEndingDirectorySeparator(folder))} in {type}"
                + $"{(placement is null ? "" : $" on {placement.Device}, experts {placement.Experts?.ToString().ToLowerInvariant()}")}");
            Console.WriteLine($"  {"compared",-34}{"rel. error",12}{"limit",10}");
            foreach (var r in results) Console.WriteLine($"  {r.What,-34}{r.Error,12:E2}{r.Limit,10:G2}  {(r.Passed ? "ok   " : "WRONG")}  {r.Where}");
            var ok = results.All(r => r.Passed);
            Console.WriteLine($"{type}: {(ok ? "PASS" : "FAIL")} ({results.Count(r => r.Passed)} of {results.Count})");
            passed &= ok;
        }
        return passed ? 0 : 1;
    }
}
