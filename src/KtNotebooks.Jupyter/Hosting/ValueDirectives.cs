using System.Text.RegularExpressions;

using KtNotebooks.Jupyter.Cells;

using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.Jupyter.Hosting;

/// <summary>`#!set`, `#!share` and `#!value`: values between kernels, which extensions may add to ours and the store of raw values.</summary>
internal static partial class ValueDirectives
{
    private const string Store = "value", Default = "csharp";

    /// <summary>#!set --name x --value 5, --value @kernel:name, --value @input:"prompt" or @password:"prompt".</summary>
    internal static async Task Set(Directive directive, CellKernel kernel)
    {
        var options = Options(directive, "name", "value");
        if (Need(directive, options, "value") is not ['@', .. var from])
        {
            await Send(kernel, Need(directive, options, "name"), null, new FormattedValue(Mime(options), options["value"]));
            return;
        }
        var at = from.IndexOf(':', StringComparison.Ordinal);
        var (source, what) = at < 0 ? (Default, from) : (from[..at], from[(at + 1)..].Trim('"'));
        if (source is "input" or "password") await Send(kernel, Need(directive, options, "name"), CellApi.Ask(what, source == "password"), null);
        else await Copy(directive, kernel, source, what, Need(directive, options, "name"));
    }

    /// <summary>#!share --from kernel name [--as name].</summary>
    internal static Task Share(Directive directive, CellKernel kernel)
    {
        var options = Options(directive, "name");
        var name = Need(directive, options, "name");
        return Copy(directive, kernel, Need(directive, options, "from"), name, options.GetValueOrDefault("as") ?? name);
    }

    /// <summary>#!value --name x, and the value in the lines below or behind --from-file or --from-value.</summary>
    internal static async Task Value(Directive directive, CellKernel kernel)
    {
        var options = Options(directive, "name");
        var text = options.TryGetValue("from-value", out var given) ? given
            : options.TryGetValue("from-file", out var file) ? await File.ReadAllTextAsync(Existing(file)) : directive.Body;
        await Send(kernel, Need(directive, options, "name"), null, new FormattedValue(Mime(options), text), Store);
    }

    private static async Task Copy(Directive directive, CellKernel kernel, string source, string name, string target)
    {
        if (kernel.Composite.FindKernelByName(source) is null)
            throw new ArgumentException($"[cell line {directive.Line}] #!{directive.Name}: there is no kernel '{source}'; there are "
                + string.Join(", ", kernel.Composite.ChildKernels.Select(k => k.Name)));
        var result = await kernel.Composite.SendAsync(new RequestValue(name, targetKernelName: source));
        if (result.Events.OfType<ValueProduced>().LastOrDefault() is not { } found)
            throw new ArgumentException($"[cell line {directive.Line}] #!{directive.Name}: the kernel {source} has no value '{name}'");
        await Send(kernel, target, found.Value, found.FormattedValue);
    }

    private static async Task Send(CellKernel kernel, string name, object? value, FormattedValue? formatted, string target = Default)
    {
        var result = await kernel.Composite.SendAsync(new SendValue(name, value, formatted, target));
        if (result.Events.OfType<CommandFailed>().LastOrDefault() is { } failed) throw failed.Exception ?? new InvalidOperationException(failed.Message);
    }

    private static string Existing(string file) => File.Exists(file) ? file : throw new FileNotFoundException($"[#!value] {file} does not exist", file);

    private static string Mime(Dictionary<string, string> options) => options.GetValueOrDefault("mime-type") ?? PlainTextFormatter.MimeType;

    private static string Need(Directive directive, Dictionary<string, string> options, string name) => options.TryGetValue(name, out var value) ? value
        : throw new ArgumentException($"[cell line {directive.Line}] #!{directive.Name} wants --{name}");

    /// <summary>--name value pairs; words without a name are those of <paramref name="order"/>, one after another.</summary>
    private static Dictionary<string, string> Options(Directive directive, params string[] order)
    {
        Dictionary<string, string> options = [];
        string? name = null;
        foreach (var word in Words().Matches(directive.Argument).Select(m => m.Value))
        {
            if (name is null && word.StartsWith("--", StringComparison.Ordinal)) name = word[2..];
            else
            {
                name ??= Array.Find(order, o => !options.ContainsKey(o))
                    ?? throw new ArgumentException($"[cell line {directive.Line}] #!{directive.Name}: '{word}' is one word too many");
                options[name] = word is ['"', .. var inner, '"'] ? inner : word;
                name = null;
            }
        }
        return options;
    }

    [GeneratedRegex("""@\w+:"[^"]*"|"[^"]*"|\S+""")] private static partial Regex Words();
}
