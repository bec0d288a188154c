using System.CommandLine;

using KtNotebooks.Configuration;
using KtNotebooks.Evaluation;
using KtNotebooks.Generation;
using KtNotebooks.Training;

namespace KtNotebooks.Cli;

/// <summary>The keys that a command reads. No list of their own: the readers are run over a config with what they cannot do without, and what they asked for is known.</summary>
internal static class KnownKeys
{
    public static IReadOnlyCollection<string> Of(Command command) => command.Name switch
    {
        "train" or "check" => Asked(c => FineTuneKeys.Read(c)),
        "plan" => [.. Asked(c => FineTuneKeys.Read(c)), "tokens_per_step"],
        "chat" => Asked(c => ChatSession.ReadKeys(c)),
        "predict" or "eval" => Asked(c => PredictSettings.Read(c)),
        "export" => Asked(c => ExportCommand.ReadKeys(c)),
        _ => [],
    };

    private static IReadOnlyCollection<string> Asked(Action<Settings> read)
    {
        var c = Settings.Read(["model_name_or_path=x", "dataset=x", "eval_dataset=x", "output_dir=x", "export_dir=x", "adapter_name_or_path=x", "template=empty"]);
        read(c);
        return c.Asked;
    }
}
