using System.CommandLine;

using KtNotebooks.Configuration;

namespace KtNotebooks.Cli;

/// <summary>`kt keys [WORD]`: what every key of a configuration is and what becomes of it.</summary>
internal static class KeysCommand
{
    public static Command Create()
    {
        var word = new Argument<string?>("WORD") { Description = "only keys with this in their name or text", Arity = ArgumentArity.ZeroOrOne };
        var markdown = new Option<bool>("--markdown") { Description = "print docs/keys.md" };
        var command = new Command("keys", "Every key of a configuration: its kind and default, what it sets, or why it has no effect here") { word, markdown };
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(markdown))
            {
                Console.Write(KeyText.Markdown());
                return 0;
            }
            var wanted = parsed.GetValue(word) ?? "";
            var found = Keys.All.Where(k =>
                k.Name.Contains(wanted, StringComparison.OrdinalIgnoreCase) || k.Help.Contains(wanted, StringComparison.OrdinalIgnoreCase)).ToList();
            if (found.Count == 0) return Failures.Refuse($"no key has '{wanted}' in its name or text.{Keys.Hint(wanted)}");
            Console.Write(KeyText.Lines(found));
            return 0;
        });
        return command;
    }
}
