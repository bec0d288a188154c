using System.CommandLine;
using System.CommandLine.Invocation;
using System.Globalization;

using KtNotebooks.Cli;

// Numbers and texts are the same on every machine; cells that want another culture name it.
CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.CurrentUICulture = CultureInfo.InvariantCulture;
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
// Ctrl-C cancels; a run then saves what it has, which may take longer than the two seconds after which the library would end the process.
var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = TimeSpan.FromMinutes(10) };
var parsed = root.Parse(args.Length == 0 ? ["--help"] : args);
if (parsed.Action is ParseErrorAction) return Failures.Refuse(parsed);
return await Failures.Guard(() => parsed.InvokeAsync(invocation));
