using System.CommandLine;
using System.Text.Json;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt bench load`: until experts stand in pinned memory.</summary>
internal static class BenchLoadCommand
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    public static Command Create()
    {
        var shape = new Option<string>("--shape") { Description = string.Join(", ", ModelShapes.Known), DefaultValueFactory = _ => "deepseek-v2-lite" };
        var layers = new Option<int?>("--layers") { Description = "the first so many; all without it" };
        var format = new Option<string>("--format")
        {
            Description = $"of the experts: {string.Join(", ", StorageFormat.BankNames)}",
            DefaultValueFactory = _ => "int4",
        };
        var device = new Option<string>("--device") { Description = "cuda:N", DefaultValueFactory = _ => "cuda:0" };
        var checkpoint = new Option<string?>("--checkpoint") { Description = "load this model's folder instead of making weights of a shape" };
        var driver = new Option<bool>("--by-driver") { Description = "the driver allocates pinned memory, as a comparison" };
        var json = new Option<bool>("--json") { Description = "one JSON object" };
        var command = new Command("load",
            "Seconds, GB/s and memory until a model with streamed experts is ready: made-up weights of a true shape, or a checkpoint")
        {
            shape, layers, format, device, checkpoint, driver, json,
        };
        command.SetAction(parsed =>
        {
            var r = LoadingBenchmark.Run(new LoadingBenchmarkSettings(parsed.GetRequiredValue(shape), parsed.GetValue(layers),
                StorageFormat.Parse(parsed.GetRequiredValue(format)), Device.Parse(parsed.GetRequiredValue(device)), parsed.GetValue(checkpoint),
                parsed.GetValue(driver)), Console.Error.WriteLine);
            if (parsed.GetValue(json)) Console.WriteLine(JsonSerializer.Serialize(r, Indented));
            else Print(r);
        });
        return command;
    }

    private static void Print(LoadingBenchmarkResult r)
    {
        var s = r.Settings;
        Console.WriteLine(s.Checkpoint ?? $"{s.Shape}, {s.Layers?.ToString() ?? "all"} layers, made-up experts in {s.Format.Name}");
        Console.WriteLine($"  ready after           {r.Seconds,8:F1} s    {r.GbPerSecond,6:F1} GB/s of {r.ExpertBytes / 1e9:F1} GB of experts in "
            + $"pinned memory, {r.Device}");
        Console.WriteLine($"  the process grew by   {r.HostBytes / 1e9,8:F2} GB   {r.HostShare,6:P1} of the weights; at "
            + $"the peak {r.PeakHostBytes / 1e9:F2} GB");
        Console.WriteLine($"  pages, {Environment.ProcessorCount,3} threads    {r.TouchGbPerSecond,8:F1} GB/s");
        Console.WriteLine($"  locking them          {r.LockGbPerSecond,8:F1} GB/s");
        Console.WriteLine($"  the driver's own way  {r.DriverGbPerSecond,8:F1} GB/s");
    }
}
