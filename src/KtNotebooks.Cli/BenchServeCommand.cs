using System.CommandLine;
using System.Text.Json;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Interactive;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Server;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt bench serve`: a server and its clients on this machine.</summary>
internal static class BenchServeCommand
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    public static Command Create()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = "the model, as `kt api` takes it; without it, and without --shape, kt-tiny",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var streams = NumberLists.Create("--streams", "clients at once; several numbers with commas between are measured one after another", 64);
        Option<int> Number(string name, int normal, string what) => new(name) { Description = what, DefaultValueFactory = _ => normal };
        var (prompt, tokens, rounds) = (Number("--prompt", 64, "tokens of a prompt"), Number("--tokens", 64, "tokens that each draws"),
            Number("--rounds", 3, "measurements of each kind; the median counts"));
        var firstPrompt = new Option<int?>("--first-prompt") { Description = "tokens of the prompt whose first token is timed alone; as --prompt without it" };
        var longPrompt = Number("--long-prompt", 0, "tokens of a prompt that comes while all draw: how long does it hold them up?");
        var shape = new Option<string?>("--shape") { Description = $"serve random weights of a true shape: {string.Join(", ", ModelShapes.Known)}" };
        var layers = new Option<int?>("--layers") { Description = "of the shape, the first so many; all without it" };
        var experts = new Option<ExecutorKind>("--experts")
        {
            Description = "cpu, streamed, resident or split",
            DefaultValueFactory = _ => ExecutorKind.Resident,
        };
        experts.AcceptOnlyFromAmong("cpu", "streamed", "resident", "split");
        var format = new Option<string>("--format")
        {
            Description = $"of the experts: {string.Join(", ", StorageFormat.BankNames)}",
            DefaultValueFactory = _ => "bf16",
        };
        var device = new Option<string>("--device") { Description = "cpu or cuda:N", DefaultValueFactory = _ => "cuda:0" };
        var (slots, adapters) = (Number("--slots-mb", 1100, "MiB of the card for experts on their way"),
            Number("--adapters", 0, "of the shape: random adapters of rank 8 on all linears and all experts, served beside the base"));
        var soak = Number("--soak", 0, "instead: so many requests of mixed kinds; every one must be answered or refused, memory stay flat");
        var json = new Option<bool>("--json") { Description = "one JSON object" };
        var command = new Command("serve", "First token, tokens per second of one client and of many, base and adapters together, and what HTTP takes of it")
        {
            arguments, streams, prompt, tokens, rounds, firstPrompt, longPrompt, shape, layers, experts, format, device, slots, adapters, soak, json,
        };
        command.SetAction(async (parsed, cancel) =>
        {
            var settings = new ServeBenchmarkSettings(parsed.GetRequiredValue(streams), parsed.GetValue(prompt), parsed.GetValue(tokens),
                parsed.GetValue(firstPrompt) ?? parsed.GetValue(prompt), parsed.GetValue(longPrompt), parsed.GetValue(rounds));
            var given = parsed.GetValue(arguments) ?? [];
            if (parsed.GetValue(shape) is { } name)
            {
                if (given.Length > 0) throw new ArgumentException($"--shape {name} and a model of its own ('{given[0]}') are one too many");
                var of = new ServedShapeSettings(name, parsed.GetValue(layers), parsed.GetValue(experts), StorageFormat.Parse(parsed.GetRequiredValue(format)),
                    Device.Parse(parsed.GetRequiredValue(device)), (long)parsed.GetValue(slots) << 20, parsed.GetValue(adapters));
                using var served = await Task.Run(() => new ServedShape(of, settings.Streams.Max(), Console.Error.WriteLine), cancel);
                await Measure(served.Engine);
                return;
            }
            using var engine = ModelEngine.Open(given is { Length: > 0 } ? given : [Repository.Path("notebooks/models/kt-tiny")]);
            await Measure(engine);

            async Task Measure(ModelEngine engine)
            {
                if (parsed.GetValue(soak) is > 0 and var requests)
                {
                    Say(await ServeSoak.RunAsync(engine, requests, Console.Error.WriteLine, cancel));
                    return;
                }
                await using var benchmark = await ServeBenchmark.StartAsync(engine, settings, cancel);
                Say(await benchmark.RunAsync(Console.Error.WriteLine, cancel), parsed.GetValue(json));
            }
        });
        return command;
    }

    private static void Say(SoakResult r)
    {
        Console.WriteLine($"{r.Requests:N0} requests in {r.Seconds:N0} s: {r.Answered:N0} answered, {r.Refused:N0} refused, {r.Left:N0} whose clients left, "
            + $"{r.Failed.Count} failed");
        Console.WriteLine($"  managed memory  {string.Join("  ", r.HeapMb.Select(m => $"{m:F1}"))} MB at every tenth");
        Console.WriteLine($"  resident        {string.Join("  ", r.ResidentMb.Select(m => $"{m:F0}"))} MB");
        Console.WriteLine($"  from the third tenth to the last {100 * r.HeapGrowth:+0.0;-0.0} % and {100 * r.ResidentGrowth:+0.0;-0.0} %");
        if (r.Failed.Count > 0) throw new InvalidOperationException($"{r.Failed.Count} requests were neither answered nor refused; the first: {r.Failed[0]}");
    }

    private static void Say(ServeBenchmarkResult r, bool json)
    {
        if (json)
        {
            Console.WriteLine(JsonSerializer.Serialize(r, Indented));
            return;
        }
        var s = r.Settings;
        Console.WriteLine($"prompts of {s.Prompt} tokens, {s.Tokens} drawn, median of {s.Rounds}; {r.Device}; clients on the same processors");
        Console.WriteLine($"  start after loading       {r.StartMs,10:N0} ms");
        Console.WriteLine($"  {$"first token of {s.FirstPrompt}, idle",-25} {r.FirstTokenMs,10:N1} ms");
        foreach (var of in r.Streams)
        {
            var name = of.Streams == 1 ? "one stream" : $"{of.Streams} streams";
            Console.WriteLine($"  {name,-25} {of.Http.TokensPerSecond,10:N0} tokens/s   {r.Times(of),4:F1} × one   the engine alone "
                + $"{of.Direct.TokensPerSecond:N0}: HTTP and JSON add {100 * of.HttpOfAStep:F1} % to a step of {of.Direct.StepMs:F1} ms, "
                + $"{100 * of.HttpOfAll:F1} % to all");
            if (of.Mixed is { } mixed)
                Console.WriteLine($"    {$"base and {r.Models - 1} adapters",-23} {mixed.TokensPerSecond,10:N0} tokens/s   "
                    + $"{100 * mixed.TokensPerSecond / of.Http.TokensPerSecond:F0} % of base alone; a step of {mixed.StepMs:F1} ms, "
                    + $"{100 * of.Http.StepMs / mixed.StepMs:F0} %");
        }
        if (r.SameTexts < r.ComparedTexts) Console.WriteLine($"  {r.SameTexts} of {r.ComparedTexts} texts are the same alone and among all");
        if (r.ReplayedSteps > 0 || r.NotRecorded is not null)
            Console.WriteLine($"  {r.ReplayedSteps:N0} of {r.Steps:N0} steps were one CUDA graph each{(r.NotRecorded is { } why ? $"; then {why}" : "")}");
        if (r.SlowestGapMs is { } gap)
            Console.WriteLine($"  {$"a prompt of {s.LongPrompt} comes",-25} {gap,10:N0} ms the longest wait of a stream for its next token");
    }
}
