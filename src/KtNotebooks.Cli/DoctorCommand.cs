using System.CommandLine;

using KtNotebooks.Interactive;
using KtNotebooks.Interop;
using KtNotebooks.Planning;

namespace KtNotebooks.Cli;

/// <summary>
/// `kt doctor`: what this machine has of what the engine can use, what fits it, and what to type for the rest. `kt env`: the same facts, to be put into a
/// report.
/// </summary>
internal static class DoctorCommand
{
    /// <summary>What `kt tour` takes: the largest kernel, all folders that it writes.</summary>
    private const long NotebookMemory = 1_500_000_000, NotebookDisk = 500_000_000;

    /// <summary>Said beside a plan that does not fit.</summary>
    public const string NotebooksAnyway = "the notebooks need none of this: they use the built-in model, without a card (./kt tour)";

    public static Command Create()
    {
        var command = new Command("doctor", "Show processor, memory, cards and libraries, what fits this machine, and what to type for what is missing");
        command.SetAction(_ =>
        {
            var facts = MachineFacts.Read();
            foreach (var (what, text) in facts.Lines) Console.WriteLine($"{what,-14}{text}");
            var here = Repository.Find() ?? Environment.CurrentDirectory;
            Console.WriteLine($"{"notebooks",-14}{Notebooks(Machine.Here(here))}");
            Console.WriteLine($"{"your model",-14}kt plan FOLDER (or {string.Join(", ", Models.ModelShapes.Known)}) says whether it fits");
            Console.WriteLine();
            if (facts.Advice.Count == 0) Console.WriteLine("nothing is missing");
            foreach (var line in facts.Advice) Console.WriteLine($"- {line}");
        });
        return command;
    }

    public static Command CreateEnv()
    {
        var command = new Command("env", "Show versions and machine as a list, for a report of a fault");
        command.SetAction(_ =>
        {
            Console.WriteLine($"- kt version: {HelpCommands.Version}");
            foreach (var (what, text) in MachineFacts.Read().Lines) Console.WriteLine($"- {what}: {text}");
        });
        return command;
    }

    /// <summary>Whether the notebooks of the checkout can be executed here.</summary>
    internal static string Notebooks(Machine machine)
    {
        List<string> lacks = [];
        if (machine.Host < NotebookMemory) lacks.Add($"{ByteSize.Text(NotebookMemory)} of memory, here are {ByteSize.Text(machine.Host)}");
        if (machine.DiskFree < NotebookDisk) lacks.Add($"{ByteSize.Text(NotebookDisk)} of free disk, here are {ByteSize.Text(machine.DiskFree)}");
        return lacks.Count == 0 ? "fit; they need nothing more than this, no card either: ./kt tour" : $"do not fit: they need {string.Join(" and ", lacks)}";
    }
}
