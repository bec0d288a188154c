using System.CommandLine;

using KtNotebooks.Configuration;
using KtNotebooks.Generation;
using KtNotebooks.Server;

namespace KtNotebooks.Cli;

/// <summary>
/// `kt api`: base and adapters behind an API that OpenAI's and Anthropic's clients talk to. Ctrl-C answers what is in the making and ends; a second one ends
/// at once.
/// </summary>
internal static class ApiCommand
{
    public static Command Create()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = "a model folder, the folder of an adapter, or a YAML file; key=value pairs over it, or pairs alone",
            Arity = ArgumentArity.OneOrMore,
        };
        var command = new Command("api", "Serve a model and its adapters to OpenAI's and Anthropic's clients: kt api CONFIG.yaml [api_port=8000 …]")
        {
            arguments,
        };
        command.SetAction((parsed, cancel) => Run(parsed.GetValue(arguments)!, null, cancel));
        return command;
    }

    /// <param name="ready">Told the address when requests are taken; null: it is said.</param>
    public static async Task<int> Run(string[] arguments, Action<Uri>? ready, CancellationToken cancel)
    {
        var (completed, said) = ModelTarget.Complete(arguments);
        var c = Settings.Read(completed);
        var api = ServerKeys.ReadApi(c);
        ApiServer.RequireFree(api);
        using var engine = FileProgress.Load(report => ModelEngine.Open(c, () => [.. said, .. c.Finish("kt api")], report), cancel);
        foreach (var note in engine.Notes) Console.WriteLine(note);
        await using var server = await ApiServer.StartAsync(engine, api with { LogsToConsole = true });
        if (!api.IsLoopback && api.Keys.Count == 0)
            Console.WriteLine($"whoever reaches {api.Host}:{server.Url.Port} can use it: no api_key is given");
        Console.WriteLine($"serving {string.Join(", ", engine.Models.Select(m => m.Name))} at {server.Url}v1; Ctrl-C ends");
        ready?.Invoke(server.Url);
        using var told = cancel.Register(() =>
        {
            if (engine.Active is > 0 and var open)
                Console.WriteLine($"waiting for {open} answer{(open == 1 ? "" : "s")}, {api.Drain.TotalSeconds:F0} s at most; Ctrl-C once more ends at once");
        });
        await server.RunAsync(cancel);
        Console.WriteLine("stopped");
        return 0;
    }
}
