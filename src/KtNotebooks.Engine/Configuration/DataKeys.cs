using KtNotebooks.Data;

namespace KtNotebooks.Configuration;

/// <summary>The keys of a configuration that say which data is used and how, by LLaMA-Factory's names and defaults.</summary>
public static class DataKeys
{
    /// <summary>template, enable_thinking (true, false or null), default_system, tool_format.</summary>
    public static Template ReadTemplate(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var template = c.Text("template") == Auto ? OfModel(c)
            : Templates.Get(c.Text("template", "empty")) with { EnableThinking = c.FlagOrNull("enable_thinking", missing: true) };
        if (c.Text("default_system") is { } system) template = template with { DefaultSystem = system };
        return template.Chat is not null || c.Text("tool_format") is null ? template : template with
        {
            Tools = c.OneOf("tool_format", "default", "default", "qwen", "glm4") switch
            {
                "qwen" => ToolForm.Qwen,
                "glm4" => ToolForm.Glm4,
                _ => ToolForm.Plain
            },
        };
    }

    /// <summary>buffer_size where rows are streamed, and null where not.</summary>
    private static int? ReadStream(Settings c)
    {
        var buffer = c.Positive("buffer_size");
        if (!c.Flag("streaming"))
        {
            c.Ignore("buffer_size", "it goes with streaming: true");
            return null;
        }
        if (c.Int("max_steps") <= 0) throw c.Has("max_steps")
            ? c.Wrong("max_steps", "the number of steps with streaming: true, where nobody knows how many rows there are")
            : new ArgumentException($"{c.Where("streaming")}: streaming: true needs max_steps, for nobody knows how many rows there are");
        if (c.Has("max_samples")) throw c.Wrong("max_samples", "left out with streaming: true; max_steps says how many rows are seen");
        if (c.Number("val_size") > 0) throw c.Wrong("val_size", "0 with streaming: true; give held-out rows as eval_dataset");
        if (c.OneOf("mix_strategy") != "concat") throw c.Wrong("mix_strategy", "concat with streaming: true; rows of several sets mix in the buffer");
        return buffer;
    }

    /// <summary>The value of template that runs the model's own chat template.</summary>
    private const string Auto = "auto";

    private static Template OfModel(Settings c)
    {
        c.Ignore("tool_format", "template: auto tells tools as the model's chat template does");
        var thinking = c.FlagOrNull("enable_thinking", missing: null);
        return new Template { Name = Auto, Tools = null, EnableThinking = thinking, Chat = ChatForm.Load(SourceKeys.Model(c), thinking) };
    }

    /// <summary>All keys of the table's data group that act, and seed.</summary>
    public static DataSettings Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        double[]? chances = c.List("interleave_probs") is not { } list ? null
            : [.. list.Select(p => Settings.TryNumber(p, out var chance) ? chance : throw c.Wrong("interleave_probs", "a list of numbers"))];
        var (packing, neat) = (c.Flag("packing"), c.Flag("neat_packing"));
        return new DataSettings
        {
            Folder = c.TextOrDefault("dataset_dir"),
            Names = c.Required("dataset"),
            Evaluation = c.Text("eval_dataset"),
            Template = ReadTemplate(c),
            TemplateGiven = c.Has("template"),
            Cutoff = c.Positive("cutoff_len"),
            MaxSamples = c.MaybePositive("max_samples"),
            ValSize = c.Number("val_size"),
            MixStrategy = c.OneOf("mix_strategy"),
            Probabilities = chances,
            TrainOnPrompt = c.Flag("train_on_prompt"),
            MaskHistory = c.Flag("mask_history"),
            Packing = neat ? PackingMode.Neat : packing ? PackingMode.Shared : PackingMode.None,
            PackingHorizon = c.Positive("preprocessing_batch_size"),
            Seed = c.Int("seed"),
            StreamBuffer = ReadStream(c),
            OverwriteCache = c.Flag("overwrite_cache"),
            IdentityName = c.Text("identity_name"),
            IdentityAuthor = c.Text("identity_author"),
        };
    }
}
