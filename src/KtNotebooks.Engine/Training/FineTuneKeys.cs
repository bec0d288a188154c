using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>What the keys of a training config say, before anything is loaded. Whoever has read them refuses what is left (<see cref="Settings.RefuseUnknown"/>).</summary>
public sealed record FineTuneKeys(string ModelPath, LoraSettings Lora, LossReduction Reduction, DType Type, string? Adapter, TrainSettings Training, DataSettings Data, int Batch, int Accumulation, double Epochs, int MaxSteps,
    PlacementSettings Placement, Action<string>? Log, IReadOnlyList<string> Notes)
{
    /// <param name="c">The config.</param>
    /// <param name="outputToo">output_dir must be there: a run writes.</param>
    public static FineTuneKeys Read(Settings c, bool outputToo = true)
    {
        ArgumentNullException.ThrowIfNull(c);
        var modelPath = c.Required("model_name_or_path");
        c.OneOf("stage", "sft", "sft");
        c.OneOf("finetuning_type", "lora", "lora");
        var lora = FineTuneRun.ReadLora(c);
        var useKt = c.Flag("use_kt");
        var reduction = c.OneOf("loss_reduction", useKt ? "micro" : "token", "token", "micro") == "micro" ? LossReduction.Micro : LossReduction.Token;
        var type = FineTuneRun.ReadType(c);
        var adapter = c.Text("adapter_name_or_path");
        var training = new TrainSettings
        {
            OutputDir = outputToo ? c.Required("output_dir") : c.Text("output_dir", ""),
            LearningRate = c.Number("learning_rate", 5e-5),
            Schedule = c.OneOf("lr_scheduler_type", "linear", LearningRate.Known),
            WarmupRatio = c.Number("warmup_ratio", 0),
            WarmupSteps = c.Int("warmup_steps", 0),
            MaxGradientNorm = c.Number("max_grad_norm", 1),
            Adam = new AdamWSettings(c.Number("adam_beta1", 0.9), c.Number("adam_beta2", 0.999), c.Number("adam_epsilon", 1e-8), c.Number("weight_decay", 0)),
            LoggingSteps = Positive(c, "logging_steps", 500),
            SaveSteps = c.Int("save_steps", 500),
            EvalSteps = c.Int("eval_steps", 0),
            Seed = (ulong)c.Int("seed", 42),
            ChunkRows = Positive(c, "chunk_size", 8192),
            Overwrite = c.Flag("overwrite_output_dir"),
            Memory = TrainingMemoryKeys.Read(c),
            PlotLoss = c.Flag("plot_loss", true),
        };
        var data = DataKeys.Read(c);
        var (batch, accumulation, epochs, maxSteps) = (c.Int("per_device_train_batch_size", 8), c.Int("gradient_accumulation_steps", 1), c.Number("num_train_epochs", 3), c.Int("max_steps", -1));
        var settings = PlacementSettings.Read(c);
        if (settings.SkipExpertLora && lora.Experts) throw new ArgumentException($"{c.Where("lora_experts")}: lora_experts and a kt_backend that ends in _SkipLoRA exclude each other");
        c.Flag("do_train");
        var log = LogLevel.Debug(c);
        var silent = c.WithoutEffect("preprocessing_num_workers", "dataloader_num_workers", "ddp_timeout", "report_to", "trust_remote_code", "save_only_model");
        List<string> notes = [.. settings.Notes];
        if (silent.Count > 0) notes.Add($"no effect here: {string.Join(", ", silent)}");
        return new FineTuneKeys(modelPath, lora, reduction, type, adapter, training, data, batch, accumulation, epochs, maxSteps, settings, log, notes);
    }

    private static int Positive(Settings c, string key, int missing) => c.Int(key, missing) is > 0 and var value ? value : throw c.Wrong(key, "positive");
}
