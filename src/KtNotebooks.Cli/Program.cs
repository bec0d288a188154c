using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.Globalization;

using KtNotebooks.Cli;

// Numbers and texts are the same on every machine; cells that want another culture name it.
CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.CurrentUICulture = CultureInfo.InvariantCulture;
Console.OutputEncoding = System.Text.Encoding.UTF8;
var root = Commands.Create();
// Ctrl-C cancels; a run then saves what it has, which may take longer than the two seconds after which the library would end the process.
var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = TimeSpan.FromMinutes(10) };
return await Failures.Guard(async () =>
{
    var parsed = Commands.Parse(root, args);
    if (parsed.Action is ParseErrorAction) return Failures.Refuse(parsed);
    var code = await parsed.InvokeAsync(invocation);
    if (parsed.Action is HelpAction) Console.Write(KnownKeys.Help(parsed.CommandResult.Command));
    return code;
});
