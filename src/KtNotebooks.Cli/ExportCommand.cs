using System.CommandLine;

using KtNotebooks.Configuration;
using KtNotebooks.Files;
using KtNotebooks.Generation;
using KtNotebooks.Lora;

namespace KtNotebooks.Cli;

/// <summary>`kt export`: a base with its adapters merged in, as a checkpoint of its own. `kt adapter`: an adapter in another form.</summary>
internal static class ExportCommand
{
    public static Command CreateExport()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = "the folder of an adapter, or a YAML file; key=value pairs over it, or pairs alone",
            Arity = ArgumentArity.OneOrMore,
        };
        var command = new Command("export",
            "Merge an adapter into its base, as a checkpoint: kt export ADAPTER export_dir=FOLDER [model_name_or_path=BASE export_size=5 "
                + "export_dtype=bfloat16]") { arguments };
        command.SetAction((parsed, cancel) => Task.Run(() => Export(parsed.GetRequiredValue(arguments), cancel)));
        return command;
    }

    public static Command CreateAdapter()
    {
        var source = new Argument<string>("FROM") { Description = "an adapter: a folder of PEFT's or KTransformers' form, or a .gguf file" };
        var target = new Argument<string>("TO") { Description = "the folder to write" };
        var experts = new Option<string>("--experts")
        {
            Description = "peft: every expert under its own name (F32); parameters: PEFT's target_parameters, as transformers 5 and vLLM have fused experts; "
                + "fused: KTransformers' fused_expert_lora.safetensors (BF16)",
            DefaultValueFactory = _ => "peft",
        };
        experts.AcceptOnlyFromAmong("peft", "parameters", "fused");
        var verbose = new Option<bool>("--verbose") { Description = "say under which name every tensor goes on" };
        var command = new Command("adapter", "Write an adapter in another form") { source, target, experts, verbose };
        command.SetAction(parsed =>
        {
            var to = parsed.GetRequiredValue(target);
            if (Path.GetExtension(to) is ".gguf" or ".safetensors" or ".bin" or ".pt" && !Directory.Exists(to))
                throw new ArgumentException($"TO must be a folder, but is '{to}': adapters are written as a folder of safetensors in each form");
            using var adapter = AdapterSource.Open(parsed.GetRequiredValue(source));
            foreach (var note in adapter.Notes) Console.WriteLine(note);
            using var held = FolderLock.Inside(to, "kt adapter", "the folder");
            var form = parsed.GetRequiredValue(experts) switch
            {
                "fused" => ExpertForm.KTransformers,
                "parameters" => ExpertForm.Parameters,
                _ => ExpertForm.Each,
            };
            adapter.Save(to, form, parsed.GetValue(verbose) ? Console.Error.WriteLine : null);
            Console.WriteLine($"{adapter.Tensors.Count} tensors → {to}");
        });
        return command;
    }

    private static int Export(string[] arguments, CancellationToken cancel)
    {
        Together.RequireOne("kt export");
        var c = Settings.Read(ModelTarget.Named(arguments));
        var size = c.Number("export_size") is > 0 and var gigabytes ? gigabytes : throw c.Wrong("export_size", "a positive number of GB");
        var settings = new ExportSettings(SourceKeys.Model(c), SourceKeys.Adapters(c), c.Required("export_dir"), (long)(size * 1e9),
            c.OneOf("export_dtype") == "bfloat16");
        SourceKeys.RequireLora(c);
        c.Flag("use_kt");
        var log = LogLevel.Debug(c);
        foreach (var note in c.Finish("kt export")) Console.WriteLine(note);
        using var export = new AdapterExport(settings, log, cancel);
        foreach (var note in export.Notes) Console.WriteLine(note);
        Console.WriteLine($"{export.Merged} matrices of {settings.Model} change");
        export.Run((shard, of) => Console.WriteLine($"file {shard} of {of}"), cancel);
        Console.WriteLine($"saved in {settings.Target}");
        return 0;
    }
}
