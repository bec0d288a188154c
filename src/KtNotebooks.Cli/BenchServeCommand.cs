using System.CommandLine;
using System.Text.Json;

using KtNotebooks.Bench;
using KtNotebooks.Interactive;
using KtNotebooks.Server;

namespace KtNotebooks.Cli;

/// <summary>`kt bench serve`: a server and its clients on this machine.</summary>
internal static class BenchServeCommand
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    public static Command Create()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = "the model, as `kt api` takes it; without it kt-tiny",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var streams = new Option<int>("--streams") { Description = "clients at once", DefaultValueFactory = _ => 64 };
        var prompt = new Option<int>("--prompt") { Description = "tokens of a prompt", DefaultValueFactory = _ => 64 };
        var tokens = new Option<int>("--tokens") { Description = "tokens that each draws", DefaultValueFactory = _ => 64 };
        var longPrompt = new Option<int>("--long-prompt") { Description = "tokens of a prompt that comes while all draw: how long does it hold them up?" };
        var json = new Option<bool>("--json") { Description = "one JSON object" };
        var command = new Command("serve", "First token, tokens per second of one client and of many, and what HTTP takes of it")
        {
            arguments, streams, prompt, tokens, longPrompt, json,
        };
        command.SetAction(async (parsed, cancel) =>
        {
            var given = parsed.GetValue(arguments) is { Length: > 0 } some ? some : [Repository.Path("notebooks/models/kt-tiny")];
            var settings = new ServeBenchmarkSettings(parsed.GetValue(streams), parsed.GetValue(prompt), parsed.GetValue(tokens), parsed.GetValue(longPrompt));
            var (completed, _) = ChatTarget.Complete(given);
            using var engine = ModelEngine.Open(completed);
            await using var benchmark = await ServeBenchmark.StartAsync(engine, settings, cancel);
            Say(await benchmark.RunAsync(Console.Error.WriteLine, cancel), parsed.GetValue(json));
        });
        return command;
    }

    private static void Say(ServeBenchmarkResult r, bool json)
    {
        if (json)
        {
            Console.WriteLine(JsonSerializer.Serialize(r, Indented));
            return;
        }
        var s = r.Settings;
        Console.WriteLine($"prompts of {s.Prompt} tokens, {s.Tokens} drawn; {r.Device}; clients on the same processors");
        Console.WriteLine($"  start after loading       {r.StartMs,10:N0} ms");
        Console.WriteLine($"  first token, idle         {r.FirstTokenMs,10:N1} ms");
        Console.WriteLine($"  one stream                {r.OneTokensPerSecond,10:N0} tokens/s");
        Console.WriteLine($"  {$"{s.Streams} streams",-25} {r.AllTokensPerSecond,10:N0} tokens/s   {r.Times:F1} × one");
        Console.WriteLine($"  the same without HTTP     {r.DirectTokensPerSecond,10:N0} tokens/s   HTTP takes {100 * r.HttpShare:F1} %");
        if (r.AdaptersTokensPerSecond is { } mixed)
            Console.WriteLine($"  {$"base and {r.Models - 1} adapters",-25} {mixed,10:N0} tokens/s   {100 * mixed / r.AllTokensPerSecond:F0} % of base alone");
        if (r.SlowestGapMs is { } gap)
            Console.WriteLine($"  {$"a prompt of {s.LongPrompt} comes",-25} {gap,10:N0} ms the longest wait of a stream for its next token");
    }
}
