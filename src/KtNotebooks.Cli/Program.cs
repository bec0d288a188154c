using System.CommandLine;
using System.Globalization;

using KtNotebooks.Cli;

CultureInfo.DefaultThreadCurrentCulture = CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
Console.OutputEncoding = System.Text.Encoding.UTF8;
var root = new RootCommand("kt: fine-tune mixture-of-experts models on one machine")
{
    TrainCommands.CreateTrain(),
    TrainCommands.CreatePretrain(),
    VerifyCommand.Create(),
    DataCommands.Create(),
};
return await Failures.Guard(() => root.Parse(args).InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false }));
