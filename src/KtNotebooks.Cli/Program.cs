using System.CommandLine;
using System.CommandLine.Invocation;
using System.Globalization;

using KtNotebooks.Cli;

CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = CultureInfo.CurrentUICulture = CultureInfo.InvariantCulture;
Console.OutputEncoding = System.Text.Encoding.UTF8;
var root = Commands.Create();
// Ctrl-C cancels; a run then saves what it has, which may take longer than the two seconds after which the library would end the process.
var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = TimeSpan.FromMinutes(10) };
return await Failures.Guard(() =>
{
    var parsed = Commands.Parse(root, args);
    return parsed.Action is ParseErrorAction ? Task.FromResult(Failures.Refuse(parsed)) : parsed.InvokeAsync(invocation);
});
