using System.CommandLine;

using KtNotebooks.Generation;

namespace KtNotebooks.Cli;

/// <summary>`kt chat`: talk with a model and its adapter; answers stream. `clear` forgets, `exit` leaves, Ctrl-C stops an answer.</summary>
internal static class ChatCommand
{
    public static Command Create()
    {
        var arguments = new Argument<string[]>("CONFIG") { Description = "a YAML file and key=value pairs over it, or key=value pairs alone", Arity = ArgumentArity.OneOrMore };
        var command = new Command("chat", "Talk with a model: kt chat model_name_or_path=FOLDER [adapter_name_or_path=FOLDER] template=deepseek …") { arguments };
        command.SetAction(parsed => Run(parsed.GetValue(arguments)!));
        return command;
    }

    private static int Run(string[] arguments)
    {
        using var chat = ChatSession.Open(arguments);
        CancellationTokenSource? answering = null;
        ConsoleCancelEventHandler stop = (_, e) =>
        {
            if (answering is not { } running) return; // at the prompt Ctrl-C leaves
            e.Cancel = true;
            running.Cancel();
        };
        Console.CancelKeyPress += stop;
        foreach (var note in chat.Model.Notes) Console.WriteLine(note);
        Console.WriteLine("type a question; `clear` forgets the conversation, `exit` leaves");
        while (true)
        {
            Console.Write("\nUser: ");
            var line = Console.ReadLine();
            if (line is null || line.Trim() == "exit") return 0;
            if (line.Trim().Length == 0) continue;
            if (line.Trim() == "clear")
            {
                chat.Clear();
                Console.WriteLine("history cleared");
                continue;
            }
            Console.Write("Assistant: ");
            using (answering = new CancellationTokenSource())
            {
                try
                {
                    foreach (var piece in chat.Ask(line, answering.Token)) Console.Write(piece);
                }
                catch (OperationCanceledException)
                {
                    Console.Write(" [stopped]");
                }
            }
            answering = null;
            Console.WriteLine();
        }
    }
}
