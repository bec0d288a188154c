using System.CommandLine;
using System.Text;
using System.Text.RegularExpressions;

using KtNotebooks.Generation;
using KtNotebooks.Lora;
using KtNotebooks.Nn;

namespace KtNotebooks.Cli;

/// <summary>
/// `kt chat`: talk with a model and its adapter; answers stream. `clear` forgets, `/adapter NAME` switches, `exit` leaves, Ctrl-C stops an answer; with or
/// without a slash before them, and `/help` lists them.
/// </summary>
internal static partial class ChatCommand
{
    private const string Quotes = "\"\"\"";

    private const string Words =
        "type a question, or several lines between \"\"\" and \"\"\"; `clear` forgets the conversation, `/adapter NAME` lets another adapter answer "
            + "(`base`: none), `exit` leaves, Ctrl-C stops an answer";

    public static Command Create()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = "a model folder, the folder of an adapter, or a YAML file; key=value pairs over it, or pairs alone",
            Arity = ArgumentArity.OneOrMore,
        };
        var command = new Command("chat", "Talk with a model: kt chat FOLDER [key=value …]") { arguments };
        command.SetAction(parsed => Run(parsed.GetValue(arguments)!));
        return command;
    }

    private static int Run(string[] arguments)
    {
        using var chat = FileProgress.Load(report => ChatSession.Open(report, arguments));
        CancellationTokenSource? answering = null;
        ConsoleCancelEventHandler stop = (_, e) =>
        {
            if (answering is not { } running) return; // at the prompt Ctrl-C leaves
            e.Cancel = true;
            running.Cancel();
        };
        Console.CancelKeyPress += stop;
        foreach (var note in chat.Notes) Console.WriteLine(note);
        Console.WriteLine(Words);
        while (true)
        {
            Console.Write("\nUser: ");
            var line = Console.ReadLine();
            if (line?.Trim() is null or "exit" or "/exit") return 0;
            if (line.Trim().Length == 0) continue;
            if (line.Trim() == "/help")
            {
                Console.WriteLine(Words);
                continue;
            }
            if (line.Trim() is "clear" or "/clear")
            {
                chat.Clear();
                Console.WriteLine("history cleared");
                continue;
            }
            if (line.Trim().Split(' ', 2, StringSplitOptions.TrimEntries) is ["/adapter", ..] words)
            {
                Switch(chat, words.ElementAtOrDefault(1));
                continue;
            }
            if (Command().IsMatch(line))
            {
                Console.WriteLine($"there is no {line.Trim().Split(' ')[0]}; {Words}");
                continue;
            }
            if (line.StartsWith(Quotes, StringComparison.Ordinal)) line = Lines(line[Quotes.Length..]);
            Console.Write("Assistant: ");
            using (answering = new CancellationTokenSource())
            {
                try
                {
                    foreach (var piece in chat.Ask(line, answering.Token)) Console.Write(piece);
                    if (chat.Ended == FinishReason.Length) Console.Write($" [cut after {chat.Sampling.MaxNewTokens} tokens; max_new_tokens=NUMBER gives more]");
                }
                catch (OperationCanceledException)
                {
                    Console.Write(" [stopped]");
                }
                catch (ArgumentException error) // what was said so far is longer than the model reads, or than the cache holds
                {
                    Console.Write($"[{error.Message}; `clear` begins a new conversation]");
                }
            }
            answering = null;
            Console.WriteLine();
        }
    }

    /// <summary>A question of several lines, up to the quotes that end it, or the end of the input.</summary>
    private static string Lines(string first)
    {
        var text = new StringBuilder();
        for (string? line = first; line is not null; line = Console.ReadLine())
        {
            if (line.TrimEnd().EndsWith(Quotes, StringComparison.Ordinal)) return text.Append(line.TrimEnd()[..^Quotes.Length]).ToString();
            text.Append(line).Append('\n');
        }
        return text.ToString();
    }

    /// <summary>A word behind a slash: a slip rather than a question, which would begin with a path's second part or a blank.</summary>
    [GeneratedRegex(@"^\s*/[A-Za-z]+(\s|$)")]
    private static partial Regex Command();

    private static void Switch(ChatSession chat, string? name)
    {
        try
        {
            if (name is not null) chat.Adapter = name;
            var all = NamedAdapters.Of(chat.Model).Prepend(Pass.BaseModel);
            Console.WriteLine(string.Join("  ", all.Select(a => a == (chat.Adapter ?? Pass.BaseModel) ? $"[{a}]" : a)));
        }
        catch (ArgumentException error)
        {
            Console.WriteLine(error.Message);
        }
    }
}
