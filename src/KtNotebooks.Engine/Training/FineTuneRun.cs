using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>
/// A fine-tuning run from one config: `kt train FILE.yaml key=value` and the notebooks build this and call <see cref="Run"/>. Keys and defaults are LLaMA-Factory's; ours beyond them are lora_experts,
/// loss_reduction, cpu_infer without use_kt, and expert_lora, optimizer_state and saved_inputs_limit for memory on a card.
/// </summary>
public sealed class FineTuneRun : IDisposable
{
    private FineTuneRun(string modelPath, Tokenizer tokenizer, Template template, CausalLm model, LoraSettings lora, TrainSettings training, IReadOnlyList<EncodedExample> examples, IReadOnlyList<EncodedExample> heldOut, ExampleWindows windows, TrainingMemory memory, IReadOnlyList<string> notes, Action<string>? log)
    {
        (ModelPath, Tokenizer, Template, Model, Lora, Training, Examples, HeldOut, Notes) = (modelPath, tokenizer, template, model, lora, training, examples, heldOut, notes);
        Trainer = new Trainer(model, windows, training, folder => AdapterFolder.Save(model, lora, folder, modelPath), heldOut.Count > 0 ? ExampleWindows.Batch(heldOut) : null)
        {
            MomentsOnHost = memory.MomentsOnHost,
            SavedBytes = memory.SavedBytes,
            LoadWeights = folder => AdapterFolder.Resume(model, lora, folder, log),
        };
    }

    public string ModelPath { get; }

    public Tokenizer Tokenizer { get; }

    public Template Template { get; }

    public CausalLm Model { get; }

    public LoraSettings Lora { get; }

    public TrainSettings Training { get; }

    public IReadOnlyList<EncodedExample> Examples { get; }

    /// <summary>Rows of eval_dataset or val_size.</summary>
    public IReadOnlyList<EncodedExample> HeldOut { get; }

    public Trainer Trainer { get; }

    /// <summary>What a person should know before it starts.</summary>
    public IReadOnlyList<string> Notes { get; }

    /// <summary>Reads, checks and loads everything a config names; nothing is written yet.</summary>
    public static FineTuneRun Open(params string[] arguments) => Open(null, arguments);

    /// <param name="loading">Told how far the model has come in.</param>
    /// <param name="arguments">A YAML file and key=value pairs over it.</param>
    public static FineTuneRun Open(Action<WorkProgress>? loading, string[] arguments)
    {
        var c = Settings.Read(arguments);
        var modelPath = c.Required("model_name_or_path");
        c.OneOf("stage", "sft", "sft");
        c.OneOf("finetuning_type", "lora", "lora");
        var lora = ReadLora(c);
        var useKt = c.Flag("use_kt");
        var reduction = c.OneOf("loss_reduction", useKt ? "micro" : "token", "token", "micro") == "micro" ? LossReduction.Micro : LossReduction.Token;
        var type = ReadType(c);
        var adapter = c.Text("adapter_name_or_path");
        var training = new TrainSettings
        {
            OutputDir = c.Required("output_dir"),
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
        if (settings.Threads is { } threads) RowParallel.Threads = threads;
        if (settings.SkipExpertLora && lora.Experts) throw new ArgumentException($"{c.Where("lora_experts")}: lora_experts and a kt_backend that ends in _SkipLoRA exclude each other");
        c.Flag("do_train");
        var log = LogLevel.Debug(c);
        var silent = c.WithoutEffect("preprocessing_num_workers", "dataloader_num_workers", "ddp_timeout", "report_to", "trust_remote_code", "save_only_model");
        c.RefuseUnknown();
        List<string> notes = [.. settings.Notes];
        if (silent.Count > 0) notes.Add($"no effect here: {string.Join(", ", silent)}");
        var placement = ModelFolder.Place(modelPath, settings);
        placement.RequireDevices();

        var tokenizer = Tokenizer.Load(modelPath);
        var rows = TrainingData.Load(data, modelPath, tokenizer);
        var (train, heldOut) = (rows.Train, rows.HeldOut);
        notes.AddRange(rows.Notes(tokenizer));
        var windows = new ExampleWindows(train, batch, accumulation, epochs, maxSteps, reduction, (int)training.Seed);
        var model = ModelFolder.Load(modelPath, type, placement, new LoadSettings(Report: loading));
        try
        {
            foreach (var example in train.Concat(heldOut))
                if (example.Ids.FirstOrDefault(i => i >= model.Info.Vocabulary) is > 0 and var id) throw new InvalidDataException($"{example.Source}: has token {id}, but the model's vocabulary ends at {model.Info.Vocabulary - 1}; tokenizer.json in {modelPath} belongs to another model");
            var memory = TrainingMemory.Choose(model, lora, training.Memory, windows.TotalSteps > 0 ? windows.At(0).Batch.Tokens : 0, notes);
            if (adapter is null) LoraAdapter.Attach(model, lora, training.Seed);
            else lora = AdapterFolder.Load(model, adapter, log) with { Dropout = lora.Dropout };
            return new FineTuneRun(modelPath, tokenizer, data.Template, model, lora, training, train, heldOut, windows, memory, [.. notes, .. model.Notes], log);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>The keys of the adapter.</summary>
    public static LoraSettings ReadLora(Settings c) => new LoraSettings(c.Int("lora_rank", 8), c.Number("lora_alpha"), c.Number("lora_dropout", 0), c.List("lora_target"), c.Flag("lora_experts")).Checked();

    /// <summary>The type of weights and activations.</summary>
    public static DType ReadType(Settings c) => c.OneOf("infer_dtype", "auto", "auto", "float32", "bfloat16") == "float32" || !c.Flag("bf16", true) ? DType.F32 : DType.BF16;


    public TrainResult Run(CancellationToken cancel = default) => Trainer.Run(cancel);

    public void Dispose() => Model.Dispose();

    private static int Positive(Settings c, string key, int missing) => c.Int(key, missing) is > 0 and var value ? value : throw c.Wrong(key, "positive");
}
