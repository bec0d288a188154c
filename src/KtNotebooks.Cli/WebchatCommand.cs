using System.CommandLine;
using System.ComponentModel;
using System.Diagnostics;

namespace KtNotebooks.Cli;

/// <summary>`kt webchat`: `kt api`, and its page in the browser.</summary>
internal static class WebchatCommand
{
    public static Command Create()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = "a model folder, the folder of an adapter, or a YAML file; key=value pairs over it, or pairs alone",
            Arity = ArgumentArity.OneOrMore,
        };
        var closed = new Option<bool>("--no-browser") { Description = "say the address and open nothing" };
        var command = new Command("webchat", "Talk with a model and its adapters side by side in the browser: kt webchat FOLDER [key=value …]")
        {
            arguments,
            closed,
        };
        command.SetAction((parsed, cancel) => ApiCommand.Run(parsed.GetValue(arguments)!, url =>
        {
            Console.WriteLine($"the page is {url}");
            if (!parsed.GetValue(closed)) Open(url);
        }, cancel));
        return command;
    }

    private static void Open(Uri url)
    {
        var opener = OperatingSystem.IsMacOS() ? "open" : "xdg-open";
        try
        {
            using var _ = Process.Start(new ProcessStartInfo(opener, [url.ToString()]) { RedirectStandardError = true, RedirectStandardOutput = true });
        }
        catch (Win32Exception)
        {
            Console.WriteLine($"no browser could be opened here ({opener} is missing)");
        }
    }
}
