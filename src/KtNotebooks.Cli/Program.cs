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
return await Failures.Guard(async () =>
{
    var parsed = Commands.Parse(root, args);
    if (parsed.Action is ParseErrorAction) return Failures.Refuse(parsed);
    // Those that are not asynchronous have signals of their own: the kernel and the chat.
    using var signals = parsed.Action is AsynchronousCommandLineAction ? new Signals() : null;
    var code = await parsed.InvokeAsync(new InvocationConfiguration
    {
        EnableDefaultExceptionHandler = false,
        ProcessTerminationTimeout = null,
    }, signals?.Token ?? CancellationToken.None);
    if (parsed.Action is HelpAction) Console.Write(KnownKeys.Help(parsed.CommandResult.Command));
    return code;
});
