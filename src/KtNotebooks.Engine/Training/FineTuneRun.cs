using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
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
        var keys = FineTuneKeys.Read(c);
        c.RefuseUnknown();
        var (modelPath, lora, training, data, settings, log) = (keys.ModelPath, keys.Lora, keys.Training, keys.Data, keys.Placement, keys.Log);
        if (settings.Threads is { } threads) RowParallel.Threads = threads;
        List<string> notes = [.. keys.Notes];
        var placement = ModelFolder.Place(modelPath, settings);
        placement.RequireDevices();

        var tokenizer = Tokenizer.Load(modelPath);
        var rows = TrainingData.Load(data, modelPath, tokenizer);
        var (train, heldOut) = (rows.Train, rows.HeldOut);
        notes.AddRange(rows.Notes(tokenizer));
        var windows = new ExampleWindows(train, keys.Batch, keys.Accumulation, keys.Epochs, keys.MaxSteps, keys.Reduction, (int)training.Seed);
        var model = ModelFolder.Load(modelPath, keys.Type, placement, new LoadSettings(Report: loading));
        try
        {
            foreach (var example in train.Concat(heldOut))
                if (example.Ids.FirstOrDefault(i => i >= model.Info.Vocabulary) is > 0 and var id) throw new InvalidDataException($"{example.Source}: has token {id}, but the model's vocabulary ends at {model.Info.Vocabulary - 1}; tokenizer.json in {modelPath} belongs to another model");
            var memory = TrainingMemory.Choose(model, lora, training.Memory, windows.TotalSteps > 0 ? windows.At(0).Batch.Tokens : 0, notes);
            if (keys.Adapter is not { } adapter) LoraAdapter.Attach(model, lora, training.Seed);
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
    public static LoraSettings ReadLora(Settings c)
    {
        var alpha = c.Number("lora_alpha") is { } given and not 0 ? given : (double?)null; // LLaMA-Factory takes 0 for nothing given
        return new LoraSettings(c.Int("lora_rank", 8), alpha, c.Number("lora_dropout", 0), c.List("lora_target"), c.Flag("lora_experts")).Checked();
    }

    /// <summary>The type of weights and activations.</summary>
    public static DType ReadType(Settings c) => c.OneOf("infer_dtype", "auto", "auto", "float32", "bfloat16") == "float32" || !c.Flag("bf16", true) ? DType.F32 : DType.BF16;

    public TrainResult Run(CancellationToken cancel = default) => Trainer.Run(cancel);

    public void Dispose() => Model.Dispose();
}
