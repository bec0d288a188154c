using System.CommandLine;
using System.Globalization;

using KtNotebooks.Cli;

CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
Console.OutputEncoding = System.Text.Encoding.UTF8;
var root = new RootCommand("kt: fine-tune mixture-of-experts models on one machine")
{
    TrainCommands.CreateTrain(),
    TrainCommands.CreatePretrain(),
    ChatCommand.Create(),
    VerifyCommand.Create(),
    DataCommands.Create(),
    KernelCommands.Create(),
    NotebookCommands.Create(),
};
// Ctrl-C cancels; a run then saves what it has, which may take longer than the two seconds after which the library would end the process.
var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = TimeSpan.FromMinutes(10) };
return await Failures.Guard(() => root.Parse(args).InvokeAsync(invocation));
