using System.CommandLine;

using KtNotebooks.Configuration;

namespace KtNotebooks.Cli;

/// <summary>The keys that a command reads, from the table of keys: for completion and for its help.</summary>
internal static class KnownKeys
{
    public static IReadOnlyList<Key> Of(Command command)
    {
        var use = !Commands.TakesKeys(command) ? KeyUse.None : command.Name switch // kt bench train has the name of one that does
        {
            "train" or "check" => KeyUse.Train,
            "plan" => KeyUse.Plan | KeyUse.Train, // a plan is made of a training file
            "chat" => KeyUse.Chat,
            "api" or "webchat" or "serve" => KeyUse.Chat | KeyUse.Api,
            "predict" or "eval" => KeyUse.Predict,
            "export" => KeyUse.Export,
            "pretrain" => KeyUse.Pretrain,
            _ => KeyUse.None,
        };
        return [.. Keys.All.Where(k => (k.Uses & use) != 0)];
    }

    /// <summary>What stands behind a command's own help; nothing for a command without keys.</summary>
    public static string Help(Command command) => Of(command) is { Count: > 0 } keys
        ? $"Keys (`kt keys` has all, and what becomes of those that are not here):\n{KeyText.Lines(keys)}" : "";
}
