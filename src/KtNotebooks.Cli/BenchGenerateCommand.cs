using System.CommandLine;
using System.Text.Json.Nodes;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt bench generate`: a prompt and its continuation on weights of true shape.</summary>
internal static class BenchGenerateCommand
{
    public static Command Create()
    {
        var shape = new Option<string>("--shape") { Description = string.Join(", ", ModelShapes.Known), DefaultValueFactory = _ => "deepseek-v2-lite" };
        var layers = new Option<int?>("--layers") { Description = "the first so many; all without it" };
        var prompt = new Option<int>("--prompt") { Description = "tokens of the prompt", DefaultValueFactory = _ => 512 };
        var tokens = new Option<int>("--tokens") { Description = "tokens to draw after it", DefaultValueFactory = _ => 32 };
        var experts = new Option<ExecutorKind>("--experts") { Description = "cpu, streamed, resident or split", DefaultValueFactory = _ => ExecutorKind.Split };
        experts.AcceptOnlyFromAmong("cpu", "streamed", "resident", "split");
        var format = new Option<string>("--format")
        {
            Description = $"of the experts: {string.Join(", ", StorageFormat.BankNames)}",
            DefaultValueFactory = _ => "bf16",
        };
        var device = new Option<string>("--device") { Description = "cpu or cuda:N", DefaultValueFactory = _ => "cuda:0" };
        var slots = new Option<int>("--slots-mb") { Description = "MiB of the card for experts on their way", DefaultValueFactory = _ => 1100 };
        var json = new Option<bool>("--json") { Description = "one JSON object" };
        var command = new Command("generate", "Tokens per second of a prompt and of the tokens after it, on random weights of a true shape")
        {
            shape, layers, prompt, tokens, experts, format, device, slots, json
        };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var settings = new GenerationBenchmarkSettings(parsed.GetRequiredValue(shape), parsed.GetValue(layers), parsed.GetValue(prompt),
                parsed.GetValue(tokens), parsed.GetValue(experts), StorageFormat.Parse(parsed.GetRequiredValue(format)),
                Device.Parse(parsed.GetRequiredValue(device)), (long)parsed.GetValue(slots) << 20);
            if (settings.Prompt < 1 || settings.NewTokens < 1)
                throw new ArgumentException($"--prompt and --tokens must be positive, but are {settings.Prompt} and {settings.NewTokens}");
            var r = GenerationBenchmark.Run(settings, Console.Error.WriteLine, cancel);
            if (parsed.GetValue(json))
            {
                Console.WriteLine(Json(r));
                return;
            }
            Console.WriteLine($"{settings.Shape}, {settings.Layers?.ToString() ?? "all"} layers, {r.Parameters / 1e9:F2} B parameters; "
                + $"experts {settings.Executor.ToString().ToLowerInvariant()} in {settings.Format.Name}, everything else on {r.Device}");
            Console.WriteLine($"  prompt   {r.PromptTokensPerSecond,10:N1} tokens/s   {r.PromptMs:N0} ms for {settings.Prompt} tokens, "
                + $"{r.PromptBytes / 1e9:F2} GB of experts over the bus");
            Console.WriteLine($"  then     {r.TokensPerSecond,10:N1} tokens/s   {r.TokenMs:N1} ms a token, {r.TokenBytes / 1e9:F2} GB of experts over the bus");
            if (r.BandwidthShare > 0)
                Console.WriteLine($"  a token reads {r.WeightBytes / 1e9:F2} GB of weights: {r.WeightBytes / r.TokenMs / 1e6:N0} GB/s, "
                    + $"{r.BandwidthShare:P0} of {r.Bandwidth:N0}, this memory alone");
            if (settings.Device.Kind == DeviceKind.Cuda)
                Console.WriteLine(r.NotRecorded is { } why ? $"  steps run kernel by kernel: {why}" : $"  {r.ReplayedSteps} steps were one CUDA graph each");
            if (r.PeakDeviceBytes > 0) Console.WriteLine($"  on the card: {r.PeakDeviceBytes / 1e9:F2} GB at the peak as the driver sees it");
        }, cancel));
        return command;
    }

    private static string Json(GenerationBenchmarkResult r)
    {
        var (s, node) = (r.Settings, new JsonObject());
        node["shape"] = s.Shape;
        node["layers"] = s.Layers;
        node["parameters"] = r.Parameters;
        node["prompt"] = s.Prompt;
        node["tokens"] = s.NewTokens;
        node["experts"] = s.Executor.ToString().ToLowerInvariant();
        node["format"] = s.Format.Name;
        node["device"] = r.Device;
        node["prompt_ms"] = r.PromptMs;
        node["prompt_tokens_per_s"] = r.PromptTokensPerSecond;
        node["decode_ms"] = r.TokenMs;
        node["decode_tokens_per_s"] = r.TokensPerSecond;
        node["weight_bytes"] = r.WeightBytes;
        node["bandwidth_gb_per_s"] = r.Bandwidth;
        node["bandwidth_share"] = r.BandwidthShare;
        node["prompt_bus_bytes"] = r.PromptBytes;
        node["decode_bus_bytes"] = r.TokenBytes;
        node["replayed_steps"] = r.ReplayedSteps;
        node["not_recorded"] = r.NotRecorded;
        node["peak_device_bytes"] = r.PeakDeviceBytes;
        return node.ToJsonString();
    }
}
