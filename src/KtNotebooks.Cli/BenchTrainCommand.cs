using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt bench train`: a real optimizer step on weights of true shape.</summary>
internal static class BenchTrainCommand
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, Converters = { new JsonStringEnumConverter() } };

    public static Command Create()
    {
        var shape = new Option<string>("--shape") { Description = string.Join(", ", ModelShapes.Known), DefaultValueFactory = _ => "deepseek-v2-lite" };
        var layers = new Option<string>("--layers") { Description = "all, or the first so many", DefaultValueFactory = _ => "all" };
        var tokens = new Option<string>("--tokens")
        {
            Description = "tokens of an optimizer step, over all ranks where mpirun or torchrun starts several; several numbers, as 8192,32768: one after the "
                + "other, of one model",
            DefaultValueFactory = _ => "8192",
        };
        var sequence = new Option<int>("--seq") { Description = "tokens of a sequence", DefaultValueFactory = _ => 512 };
        var rank = new Option<int>("--rank") { Description = "LoRA rank, on all linears and all routed experts", DefaultValueFactory = _ => 8 };
        var experts = new Option<ExecutorKind>("--experts")
        {
            Description = "cpu, streamed, resident or split",
            DefaultValueFactory = _ => ExecutorKind.Streamed,
        };
        experts.AcceptOnlyFromAmong("cpu", "streamed", "resident", "split");
        var format = new Option<string>("--format")
        {
            Description = $"of the experts: {string.Join(", ", StorageFormat.BankNames)}",
            DefaultValueFactory = _ => "bf16",
        };
        var device = new Option<string>("--device") { Description = "cpu or cuda:N", DefaultValueFactory = _ => "cuda:0" };
        var cards = new Option<int>("--cards") { Description = "lay the layers over so many cards, from --device on", DefaultValueFactory = _ => 1 };
        var contiguous = new Option<bool>("--contiguous")
        {
            Description = "with --cards: consecutive layers on each card, as KTransformers' rule files say; "
            + "else the cards take turns"
        };
        var parts = new Option<string?>("--parts")
        {
            Description = "parts of the window that follow each other through the cards, or several numbers; without it two, with --contiguous one a card",
        };
        var slots = new Option<int>("--slots-mb") { Description = "MiB of each card for experts on their way", DefaultValueFactory = _ => 1100 };
        var saved = new Option<int>("--saved-mb")
        {
            Description = "MiB of each card for inputs of the stages; what is over goes to pinned host memory",
            DefaultValueFactory = _ => 0,
        };
        var moments = new Option<bool>("--moments-on-host") { Description = "AdamW's moments wait in pinned host memory" };
        var pairs = new Option<bool>("--lora-on-host")
        {
            Description = "the experts' low-rank pairs, their gradients and moments live in pinned host memory "
            + "and are updated there"
        };
        var pairsFolder = new Option<string?>("--lora-on-disk")
        {
            Description = "a folder, on a disk that is the home of the experts' low-rank pairs, their gradients and moments"
        };
        var keep = new Option<bool>("--keep-activations")
        {
            Description = "experts on the CPU keep what their backward pass needs (kt_cpu_activation: retain)"
        };
        var kept = new Option<int>("--kept-mb")
        {
            Description = "MiB of each device in which stages keep their whole forward pass for backward (kept_activations)",
            DefaultValueFactory = _ => 0,
        };
        var stage = new Option<string>("--stage")
        {
            Description = "sft, or dpo: every two sequences are a pair, whose reference is the base without its adapter",
            DefaultValueFactory = _ => "sft",
        };
        stage.AcceptOnlyFromAmong("sft", "dpo");
        var finetuning = new Option<string>("--finetuning")
        {
            Description = "lora, or full: all weights themselves, experts included (resident or streamed, in bf16)",
            DefaultValueFactory = _ => "lora",
        };
        finetuning.AcceptOnlyFromAmong("lora", "full");
        var chunk = new Option<int>("--chunk") { Description = "rows that a stage works on at a time", DefaultValueFactory = _ => 8192 };
        var steps = new Option<int>("--steps") { Description = "measured steps, after those to warm up", DefaultValueFactory = _ => 5 };
        var warmUp = new Option<int>("--warm-up")
        {
            Description = "steps before the measured ones; 0 where a step takes minutes: the first is measured, with all that it makes",
            DefaultValueFactory = _ => TrainingBenchmark.WarmUp,
        };
        var weights = new Option<string>("--weights")
        {
            Description = "where streamed experts wait: host (pinned memory), or disk: shards that are made first, in --disk-folder",
            DefaultValueFactory = _ => "host",
        };
        weights.AcceptOnlyFromAmong("host", "disk");
        var diskFolder = new Option<string?>("--disk-folder") { Description = "with --weights disk: a folder on the disk to be measured" };
        var diskLayers = new Option<int?>("--disk-layers")
        {
            Description = "the shards hold the first so many layers, read again for all others: as many bytes a step, where the disk has no room for all",
        };
        var dense = new Option<string>("--dense")
        {
            Description = "where the matrices of layers are that are no experts: card, or host: pinned memory, from where they come for their layer's work",
            DefaultValueFactory = _ => "card",
        };
        dense.AcceptOnlyFromAmong("card", "host");
        var trace = new Option<string?>("--trace")
        {
            Description = "a .json file: when each card computed what in the last step, for ui.perfetto.dev; of several windows one each",
        };
        var json = new Option<bool>("--json") { Description = "one JSON object" };
        var command = new Command("train", "Tokens per second of a real training step (forward, backward, clipping, AdamW) on random weights of a true shape")
        {
            shape, layers, tokens, sequence, rank, experts, format, device, cards, contiguous, parts, slots, saved, moments, pairs, pairsFolder, keep, kept,
            chunk, stage, finetuning, steps, warmUp, weights, diskFolder, diskLayers, dense, trace, json
        };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var onDisk = parsed.GetValue(weights) == "disk";
            if (onDisk != parsed.GetValue(diskFolder) is not null)
                throw new ArgumentException("--weights disk and --disk-folder DIR go together: the shards are made in that folder");
            if (parsed.GetValue(warmUp) < 0 || parsed.GetValue(diskLayers) < 1)
                throw new ArgumentException($"--warm-up must be 0 or more and --disk-layers 1 or more, but are {parsed.GetValue(warmUp)} and "
                    + $"{parsed.GetValue(diskLayers)?.ToString() ?? "not given"}");
            if (parsed.GetValue(diskLayers) is not null && !onDisk) throw new ArgumentException("--disk-layers is for --weights disk");
            var text = parsed.GetRequiredValue(layers);
            int? count = text == "all" ? null
                : int.TryParse(text, out var n) ? n : throw new ArgumentException($"--layers must be all or a number, but is '{text}'");
            (int Tokens, int? Parts)[] windows = [.. from window in NumberLists.Parse(parsed.GetRequiredValue(tokens), "--tokens")
                from cut in parsed.GetValue(parts) is { } words ? NumberLists.Parse(words, "--parts").Select(n => (int?)n) : [null]
                select (window, cut)];
            var full = parsed.GetRequiredValue(finetuning) == "full";
            foreach (var option in full ? (Option[])[rank, pairs, pairsFolder] : [])
                if (parsed.GetResult(option) is { Implicit: false })
                    throw new ArgumentException($"{option.Name} is of adapters, and --finetuning full makes none");
            var settings = new TrainingBenchmarkSettings(parsed.GetRequiredValue(shape), count, windows[0].Tokens, parsed.GetValue(sequence),
                parsed.GetValue(rank), parsed.GetValue(experts), StorageFormat.Parse(parsed.GetRequiredValue(format)),
                Device.Parse(parsed.GetRequiredValue(device)), (long)parsed.GetValue(slots) << 20, (long)parsed.GetValue(saved) << 20, parsed.GetValue(moments),
                parsed.GetValue(pairs), parsed.GetValue(chunk), parsed.GetValue(steps), parsed.GetValue(cards), parsed.GetValue(contiguous),
                windows[0].Parts, parsed.GetValue(diskFolder), parsed.GetValue(dense) == "host",
                parsed.GetValue(trace), parsed.GetValue(keep), parsed.GetValue(pairsFolder),
                (long)parsed.GetValue(kept) << 20, parsed.GetRequiredValue(stage), full, parsed.GetValue(diskLayers), parsed.GetValue(warmUp));
            var ranks = Together.Join(cancel);
            var speaker = ranks.World == 1 ? "" : $"rank {ranks.Rank}: ";
            foreach (var result in TrainingBenchmark.Run(settings, ranks, line => Console.Error.WriteLine(speaker + line), windows, cancel))
            {
                if (parsed.GetValue(json)) Console.WriteLine(JsonSerializer.Serialize(result, Indented));
                else Print(result);
            }
        }, cancel));
        return command;
    }

    private static void Print(TrainingBenchmarkResult r)
    {
        var s = r.Settings;
        Console.WriteLine($"{s.Shape}, {s.Layers?.ToString() ?? "all"} layers, {r.Parameters / 1e9:F2} B parameters, "
            + (s.IsFull ? $"{r.Trained / 1e9:F2} B of them trained" : $"LoRA rank {s.Rank} ({r.Trained / 1e6:F1} M trained)")
            + $", {s.Tokens} tokens a step in sequences of {s.Sequence}"
            + (s.Stage == "sft" ? "" : $", {s.Stage}"));
        var more = s.Gpus == 1 ? ""
            : $" and {s.Gpus - 1} more: {(s.Contiguous ? "consecutive layers on each" : "layers in turn")}, the window in {s.Parts} parts";
        if (r.Ranks is { } shared) Console.WriteLine($"{shared.World} processes share every step, summed by {shared.Carrier}; the first one's figures");
        Console.WriteLine($"experts {s.Executor.ToString().ToLowerInvariant()} in {s.Format.Name}, everything else "
            + $"{(s.DenseOnHost ? "from host memory too, but norms, token table and head, " : "")}on {r.Device}{more}");
        Console.WriteLine($"  {r.TokensPerSecond,10:N0} tokens/s   step {r.StepMs:N0} ms ({r.FastestMs:N0} to {r.SlowestMs:N0} in {s.Steps} steps)");
        if (r.Ranks is { } sums)
            Console.WriteLine($"  gradients: {sums.Bytes / 1e6:N1} MB summed in {sums.SumMs:N1} ms, of which {sums.ExposedMs:N1} ms come after the rank's own: "
                + $"{sums.ExposedMs / r.StepMs:P1} of the step");
        if (r.PerDevice is null) Console.WriteLine($"  on the compute stream: {Split(r.Parts)}");
        if (r.CopiedBytes > 0)
            Console.WriteLine($"  over the bus: {r.CopiedBytes / 1e9:F1} GB in {r.CopyMs:N0} ms = {r.CopyGbPerSecond:F1} GB/s, "
                + $"busy {r.CopyMs / r.StepMs:P0} of the step; "
                + $"{r.BusWaitMs:N0} ms of it a card stood before copies that were not over");
        if (r.ReadBytes > 0)
            Console.WriteLine($"  from the disk{(s.DiskLayers is { } stored ? $", where {stored} layers stand for all" : "")}: "
                + $"{r.ReadBytes / 1e9:F1} GB a step = {r.ReadGbPerSecond:F2} GB/s, "
                + $"{r.ReadGbPerSecond / r.DiskGbPerSecond:P0} of the {r.DiskGbPerSecond:F2} that it gives when read straight on");
        foreach (var card in r.PerDevice ?? [])
        {
            Console.WriteLine($"  {card.Device}: {card.PeakDeviceBytes / 1e9:F2} GB at the peak as the driver sees it, {card.PoolPeakBytes / 1e9:F2} GB of it "
                + $"ours; {card.CopiedBytes / 1e9:F1} GB over its bus in {card.CopyMs:N0} ms, waited for {card.BusWaitMs:N0} ms");
            Console.WriteLine($"    {Split(card.Parts)}");
        }
        if (r.PerDevice is not null) Console.WriteLine($"  host {r.ResidentHostBytes / 1e9:F1} GB resident");
        else if (r.PeakDeviceBytes > 0)
            Console.WriteLine($"  on the card: {r.PeakDeviceBytes / 1e9:F2} GB at the peak as the driver sees it, {r.PoolPeakBytes / 1e9:F2} GB of it ours; "
                + $"host {r.ResidentHostBytes / 1e9:F1} GB resident");
        Console.WriteLine($"  losses {string.Join(" ", r.Losses.Select(l => l.ToString("F3")))}");
    }

    private static string Split(IReadOnlyDictionary<string, double> parts) =>
        string.Join(", ", parts.Where(p => p.Value > 0).OrderByDescending(p => p.Value).Select(p => $"{p.Key} {p.Value:N0} ms"));
}
