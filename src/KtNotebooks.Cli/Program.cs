using System.CommandLine;
using System.CommandLine.Invocation;
using System.Globalization;

using KtNotebooks.Cli;

CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
Console.OutputEncoding = System.Text.Encoding.UTF8;
var root = new RootCommand("kt: fine-tune mixture-of-experts models on one machine")
{
    TrainCommands.CreateTrain(),
    TrainCommands.CreatePretrain(),
    PlanCommand.Create(),
    ChatCommand.Create(),
    PredictCommand.Create(),
    EvalCommand.Create(),
    ExportCommand.CreateExport(),
    ExportCommand.CreateAdapter(),
    ReportCommand.Create(),
    VerifyCommand.Create(),
    ModelCommands.Create(),
    ConvertCommand.Create(),
    BenchCommands.Create(),
    DoctorCommand.Create(),
    DataCommands.Create(),
    TokenizeCommand.Create(),
    KernelCommands.Create(),
    NotebookCommands.Create(),
    TourCommand.Create(),
};
var parsed = root.Parse(args.Length == 0 ? ["--help"] : args);
if (parsed.Action is ParseErrorAction) return Failures.Refuse(parsed);
// Those that are not asynchronous have signals of their own: the kernel and the chat.
using var signals = parsed.Action is AsynchronousCommandLineAction ? new Signals() : null;
var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null };
return await Failures.Guard(() => parsed.InvokeAsync(invocation, signals?.Token ?? CancellationToken.None));
