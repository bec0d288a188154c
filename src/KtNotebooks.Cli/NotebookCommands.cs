using System.CommandLine;

using KtNotebooks.Jupyter.Notebooks;

namespace KtNotebooks.Cli;

/// <summary>kt notebook: what one does with notebooks without a notebook server.</summary>
internal static class NotebookCommands
{
    public static Command Create() => new("notebook", "run notebooks without Jupyter") { Run() };

    private static Command Run()
    {
        var input = new Argument<string>("in") { Description = "the .ipynb to execute" };
        var output = new Option<string?>("--out") { Description = "where the executed notebook goes (default: only report)" };
        var parameters = new Option<string[]>("--parameter", "-p")
        {
            Description = "name=value: declared after the cell with the tag 'parameters' (repeatable)",
            DefaultValueFactory = _ => [],
        };
        var kernel = new Option<string?>("--kernel") { Description = "an installed kernel, such as .net-csharp (default: ours, in this process)" };
        var command = new Command("run", "execute a notebook and store its outputs") { input, output, parameters, kernel };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var result = NotebookRunner.Run(parsed.GetRequiredValue(input), parsed.GetValue(output), parsed.GetValue(parameters)!, cancel,
                parsed.GetValue(kernel));
            foreach (var note in result.Notes) Console.Error.WriteLine($"note: {note}");
            if (result.Success) Console.WriteLine($"{result.CellsRun} cells ran");
            else Console.Error.WriteLine(result.Error);
            return result.Success ? 0 : 1;
        }, CancellationToken.None));
        return command;
    }
}
