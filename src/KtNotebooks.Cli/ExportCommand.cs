using System.CommandLine;

using KtNotebooks.Configuration;
using KtNotebooks.Files;
using KtNotebooks.Lora;

namespace KtNotebooks.Cli;

/// <summary>`kt export`: a base with its adapters merged in, as a checkpoint of its own. `kt adapter`: an adapter in another form.</summary>
internal static class ExportCommand
{
    public static Command CreateExport()
    {
        var arguments = new Argument<string[]>("CONFIG") { Description = "a YAML file and key=value pairs over it, or key=value pairs alone", Arity = ArgumentArity.OneOrMore };
        var command = new Command("export", "Merge adapters into a checkpoint: kt export model_name_or_path=FOLDER adapter_name_or_path=FOLDER export_dir=FOLDER [export_size=5] [export_dtype=bfloat16]") { arguments };
        command.SetAction((parsed, cancel) => Task.Run(() => Export(parsed.GetRequiredValue(arguments), cancel)));
        return command;
    }

    public static Command CreateAdapter()
    {
        var source = new Argument<string>("FROM") { Description = "an adapter: a folder of PEFT's or KTransformers' form, or a .gguf file" };
        var target = new Argument<string>("TO") { Description = "the folder to write" };
        var experts = new Option<string>("--experts") { Description = "peft: every expert under its own name (F32); fused: KTransformers' fused_expert_lora.safetensors (BF16)", DefaultValueFactory = _ => "peft" };
        experts.AcceptOnlyFromAmong("peft", "fused");
        var verbose = new Option<bool>("--verbose") { Description = "say under which name every tensor goes on" };
        var command = new Command("adapter", "Write an adapter in another form") { source, target, experts, verbose };
        command.SetAction(parsed =>
        {
            using var adapter = AdapterSource.Open(parsed.GetRequiredValue(source));
            using var held = FolderLock.Inside(parsed.GetRequiredValue(target), "kt adapter", "the folder");
            adapter.Save(parsed.GetRequiredValue(target), parsed.GetRequiredValue(experts) == "fused", parsed.GetValue(verbose) ? Console.Error.WriteLine : null);
            Console.WriteLine($"{adapter.Tensors.Count} tensors → {parsed.GetRequiredValue(target)}");
        });
        return command;
    }

    private static int Export(string[] arguments, CancellationToken cancel)
    {
        var c = Settings.Read(arguments);
        var size = c.Number("export_size", 5) is > 0 and var gigabytes ? gigabytes : throw c.Wrong("export_size", "a positive number of GB");
        var settings = new ExportSettings(c.Required("model_name_or_path"), c.List("adapter_name_or_path") ?? [], c.Required("export_dir"), (long)(size * 1e9), c.OneOf("export_dtype", "auto", "auto", "bfloat16") == "bfloat16");
        c.OneOf("finetuning_type", "lora", "lora");
        if (c.Flag("export_legacy_format")) throw c.Wrong("export_legacy_format", "false: safetensors are written");
        if (c.Has("export_quantization_bit")) throw c.Wrong("export_quantization_bit", "left out: weights keep the type of the base, or become BF16 with export_dtype=bfloat16");
        var silent = c.WithoutEffect("template", "export_device", "trust_remote_code", "infer_dtype", "use_kt");
        var log = LogLevel.Debug(c);
        c.RefuseUnknown();
        if (silent.Count > 0) Console.WriteLine($"no effect here: {string.Join(", ", silent)}");
        using var export = new AdapterExport(settings, log);
        Console.WriteLine($"{export.Merged} matrices of {settings.Model} change");
        export.Run((shard, of) => Console.WriteLine($"file {shard} of {of}"), cancel);
        Console.WriteLine($"saved in {settings.Target}");
        return 0;
    }
}
