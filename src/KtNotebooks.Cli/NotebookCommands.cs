using System.CommandLine;

using KtNotebooks.Files;
using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Notebooks;

namespace KtNotebooks.Cli;

/// <summary>kt notebook: what one does with notebooks without a notebook server, and how to start one.</summary>
internal static class NotebookCommands
{
    public static Command Create() => new("notebook", "run, check, publish (html) and begin (new) notebooks without Jupyter, or look at one in a browser (lab)")
    {
        Run(), Check(), Html(), New(), LabCommand.Create(),
    };

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
        var timeout = new Option<double?>("--timeout") { Description = "the most seconds that a cell may take (default: any time)" };
        var command = new Command("run", "execute a notebook and store its outputs") { input, output, parameters, kernel, timeout };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            TimeSpan? most = null;
            if (parsed.GetValue(timeout) is { } seconds)
            {
                if (!(seconds > 0 && seconds <= 1e6)) return Failures.Refuse($"--timeout must be a number of seconds above 0, but is {seconds}");
                most = TimeSpan.FromSeconds(seconds);
            }
            var result = NotebookRunner.Run(parsed.GetRequiredValue(input), parsed.GetValue(output), parsed.GetValue(parameters)!, cancel,
                parsed.GetValue(kernel), most);
            foreach (var note in result.Notes) Console.Error.WriteLine($"note: {note}");
            if (result.Success) Console.WriteLine($"{result.CellsRun} cells ran");
            else Console.Error.WriteLine(result.Error);
            return result.Success ? 0 : 1;
        }, CancellationToken.None));
        return command;
    }

    private static Command Check()
    {
        var files = new Argument<string[]>("FILES") { Description = "the notebooks", Arity = ArgumentArity.OneOrMore };
        var command = new Command("check", "say what is wrong with stored notebooks: outputs of other code, figures without text, long lines") { files };
        command.SetAction(parsed =>
        {
            var wrong = 0;
            foreach (var file in parsed.GetRequiredValue(files))
            {
                IReadOnlyList<string> found;
                try
                {
                    found = NotebookCheck.Run(file);
                }
                catch (Exception error) when (error is IOException or InvalidDataException or UnauthorizedAccessException)
                {
                    found = [error.Message.StartsWith(file, StringComparison.Ordinal) ? error.Message[file.Length..].TrimStart(':', ' ') : error.Message];
                }
                foreach (var fault in found) Console.Error.WriteLine($"{file}: {fault}");
                if (found.Count == 0) Console.WriteLine($"{file}: as it should be");
                wrong += found.Count;
            }
            return wrong == 0 ? 0 : 1;
        });
        return command;
    }

    private static Command Html()
    {
        var input = new Argument<string>("in") { Description = "an executed .ipynb" };
        var output = new Option<string?>("--out") { Description = "the page (default: beside the notebook)" };
        var command = new Command("html", "make one page of a notebook that needs nothing else: code, text, figures, light and dark") { input, output };
        command.SetAction(parsed =>
        {
            var path = parsed.GetRequiredValue(input);
            var page = parsed.GetValue(output) ?? Path.ChangeExtension(path, ".html");
            NotebookHtml.Render(path).Save(page);
            Console.WriteLine(page);
        });
        return command;
    }

    private static Command New()
    {
        var output = new Argument<string>("out") { Description = "the .ipynb to write" };
        var command = new Command("new", "begin a notebook: parameters, data, model, training, a figure, an exercise") { output };
        command.SetAction(parsed =>
        {
            var path = parsed.GetRequiredValue(output);
            if (Path.GetExtension(path) != ".ipynb") return Failures.Refuse($"{path}: a notebook's name ends in .ipynb");
            if (File.Exists(path) || Directory.Exists(path)) return Failures.Refuse($"{path}: is there already, and is not overwritten");
            AtomicFile.WriteText(path, NotebookTemplate.Text(Path.GetFileNameWithoutExtension(path)));
            Console.WriteLine($"{path}; run it: ./kt notebook run {path} --out {path}, or in a browser: ./kt notebook lab");
            return 0;
        });
        return command;
    }
}
