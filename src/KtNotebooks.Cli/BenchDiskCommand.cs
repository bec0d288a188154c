using System.CommandLine;
using System.Text.Json;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt bench disk`: experts from the disk to a card.</summary>
internal static class BenchDiskCommand
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    public static Command Create()
    {
        var shape = new Option<string>("--shape") { Description = string.Join(", ", ModelShapes.Known), DefaultValueFactory = _ => "deepseek-v2-lite" };
        var layers = new Option<int?>("--layers") { Description = "the first so many; all without it" };
        var format = new Option<string>("--format") { Description = "of the experts: bf16, fp8 or int4", DefaultValueFactory = _ => "int4" };
        var device = new Option<string>("--device") { Description = "cuda:N", DefaultValueFactory = _ => "cuda:0" };
        var folder = new Option<string>("--disk-folder") { Description = "on the disk to be measured; shards are made there first", Required = true };
        var slots = new Option<int>("--slots-mb") { Description = "MiB of the card for experts on their way", DefaultValueFactory = _ => 1100 };
        var passes = new Option<int>("--passes") { Description = "forward and backward, without arithmetic", DefaultValueFactory = _ => 2 };
        var json = new Option<bool>("--json") { Description = "one JSON object" };
        var command = new Command("disk", "GB/s of experts from the disk to a card in the order of a training step, beside the disk's own rate")
        {
            shape, layers, format, device, folder, slots, passes, json,
        };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var r = DiskBenchmark.Run(new DiskBenchmarkSettings(parsed.GetRequiredValue(shape), parsed.GetValue(layers),
                StorageFormat.Parse(parsed.GetRequiredValue(format)), Device.Parse(parsed.GetRequiredValue(device)), parsed.GetRequiredValue(folder),
                (long)parsed.GetValue(slots) << 20, parsed.GetValue(passes)), Console.Error.WriteLine, cancel);
            if (parsed.GetValue(json)) Console.WriteLine(JsonSerializer.Serialize(r, Indented));
            else
                Console.WriteLine($"{r.Settings.Shape}, {r.ExpertBytes / 1e9:F1} GB of experts in {r.Settings.Format.Name} to {r.Device}: "
                    + $"{r.ReadBytes / 1e9:F1} GB in {r.Seconds:F1} s = {r.ReadGbPerSecond:F2} GB/s, {r.Share:P0} of the {r.DiskGbPerSecond:F2} "
                    + "that the disk gives when it is read straight on");
        }, cancel));
        return command;
    }
}
