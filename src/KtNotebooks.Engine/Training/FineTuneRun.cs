using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Experts;
using KtNotebooks.Files;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training.Objectives;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>
/// A fine-tuning run from one config: `kt train FILE.yaml key=value` and the notebooks build this and call <see cref="Run"/>. Keys and defaults are
/// LLaMA-Factory's; ours beyond them are lora_experts, loss_reduction, cpu_infer without use_kt, and expert_lora, optimizer_state and saved_inputs_limit
/// for memory on a card.
/// </summary>
public sealed class FineTuneRun : IDisposable
{
    private FineTuneRun(FineTuneKeys keys, RunBuilder parts, LoraSettings lora, TrainingData rows, Tokenizer tokenizer) =>
        (ModelPath, Template, Training, Model, Lora, Examples, HeldOut, Tokenizer, Trainer) =
            (keys.ModelPath, keys.Data.Template, keys.Training, parts.Model, lora, rows.Train, rows.HeldOut, tokenizer, parts.Build());

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
    public IReadOnlyList<string> Notes { get; private init; } = [];

    /// <summary>Reads, checks and loads everything a config names; nothing is written yet.</summary>
    public static FineTuneRun Open(params string[] arguments) => Open(null, arguments);

    /// <param name="loading">Told how far the model has come in.</param>
    /// <param name="arguments">A YAML file and key=value pairs over it.</param>
    /// <param name="cancel">Looked at while rows are read.</param>
    public static FineTuneRun Open(Action<WorkProgress>? loading, string[] arguments, CancellationToken cancel = default) =>
        Open(loading, arguments, SingleRank.Instance, cancel);

    /// <inheritdoc cref="Open(Action{WorkProgress}?, string[], CancellationToken)"/>
    /// <param name="ranks">The processes that share the run out.</param>
    public static FineTuneRun Open(Action<WorkProgress>? loading, string[] arguments, ICollective ranks, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(ranks);
        var c = Settings.Read(arguments);
        var keys = FineTuneKeys.Read(c);
        var from = Start(keys, ranks);
        var (modelPath, lora, training, objective, settings) = (keys.ModelPath, keys.Lora, keys.Training, keys.Objective, keys.Placement);
        List<string> notes = [.. c.Finish("kt train"), .. keys.Notes];
        using var first = keys.Adapter is { } adapterPath ? AdapterSource.Open(adapterPath) : null; // what is wrong with it is said before a long load
        if (first is not null) lora = keys.GoingOn(first, c);
        var trained = keys.WithModulesOf(first?.Settings.Additional, c);
        Func<string, bool>? trains = null;
        Func<string, bool> Choose(CausalLm shape)
        {
            trains = trained!(shape);
            WeightAdaptation.RequirePlain(modelPath, shape, trains);
            return trains;
        }
        var plan = ModelFolder.Plan(modelPath, settings, keys.Type, trained is null ? null : Choose);
        var referenceAhead = trained is not null && objective.Needs == Scores.PolicyAndReference;
        if (referenceAhead && keys.Data.StreamBuffer is not null)
            throw c.Wrong("streaming", $"false with stage: {objective.Stage} where weights of the base are trained: the reference's log-probabilities of all "
                + "rows are computed before the first step");

        var tokenizer = Tokenizer.Load(modelPath);
        if (objective.Stage != "pt" && keys.Data.Template.Doubt(tokenizer) is { } doubt) notes.Add(doubt);
        var rows = TrainingData.Load(keys.Data, modelPath, objective.Encoder(keys.Data, tokenizer), cancel);
        var stream = keys.Data.StreamBuffer is { } buffer ? new RowStream(keys.Data, objective.Encoder(keys.Data, tokenizer), buffer, keys.OrderSeed) : null;
        IWindowSource Windows() => stream is null
            ? new ExampleWindows(rows.Train, keys.Batch, keys.Accumulation, keys.Epochs, keys.MaxSteps, keys.Reduction, keys.OrderSeed, objective)
            : new StreamedWindows(stream, keys.Batch, keys.Accumulation, keys.MaxSteps, keys.Reduction, objective);
        var windows = Windows();
        if (windows is StreamedWindows streamed)
            rows = rows with
            {
                Train = [.. streamed.First],
                Skipped = [.. rows.Skipped, .. stream!.Skipped],
                Remarks = [.. rows.Remarks, .. stream.Remarks.Select(remark => $"of the first rows: {remark}")],
            };
        var rowsHash = stream?.Fingerprint() ?? FineTuneIdentity.HashOf(rows.Train);
        if (ranks.World > 1 && keys.Trained is { } parts)
            throw new ArgumentException($"{c.Where("finetuning_type")}: finetuning_type: {parts.Word} is trained by one process; adapters by several");
        if (ranks.World > 1 && trains is not null && keys.Trained is null)
            throw new ArgumentException($"{c.Where("additional_target")}: whole modules (additional_target) are trained by one process; pairs by several");
        if (ranks.World > 1 && training is { Balance: > 0, BalancesSequences: true })
            throw new ArgumentException($"{c.Where("moe_aux_loss_form")}: moe_aux_loss_form: sequence is for one process; give pooled with several");
        // Said now, for a large model takes minutes to load; the rest is compared when it is there.
        SameRun.Require(ranks, [("what is run", "training"), ("the build of kt", SameRun.Code),
            .. FineTuneIdentity.Of(keys, c, rowsHash, windows.TotalSteps, model: null).Facts,
            ("the checkpoint to go on from", from is null ? "none" : Path.GetFileName(from))]);
        if (ranks.World > 1)
            notes.Add($"{ranks.World} ranks on {ranks.Hosts.Distinct().Count()} host(s), summed by {ranks.Carrier}: the {keys.Batch * keys.Accumulation} "
                + "rows of every step (per_device_train_batch_size · gradient_accumulation_steps) are shared out, so that the run is that of one rank");
        if (keys.Batch * keys.Accumulation < ranks.World)
            notes.Add($"a step has fewer rows than there are ranks: {ranks.World - (keys.Batch * keys.Accumulation)} of them only wait; raise "
                + "gradient_accumulation_steps");
        if (from is not null)
            FineTuneIdentity.Of(keys, c, rowsHash, windows.TotalSteps, model: null).Compare(from, training.ResumeFrom.IsExplicit, partly: true);
        var model = ModelFolder.Load(modelPath, keys.Type, plan, new LoadSettings(Report: loading));
        try
        {
            if (windows is StreamedWindows reading) reading.Vocabulary = model.Info.Vocabulary;
            notes.AddRange(rows.Notes(model.Info.MaxPositions));
            if (objective.Stage != "pt" && rows.Train.Count(r => r.Starts.Length == 1 && r.Ids.Length >= keys.Data.Cutoff) is > 0 and var full)
                notes.Add($"{full:N0} of {rows.Train.Length:N0} rows have the {keys.Data.Cutoff:N0} tokens that cutoff_len allows: what was longer was cut, "
                    + "answers too");
            foreach (var example in rows.Train.Concat(rows.HeldOut))
                if (example.Ids.Where(i => i >= model.Info.Vocabulary).Cast<int?>().FirstOrDefault() is { } id)
                    throw new InvalidDataException($"{example.Source}: has token {id}, but the model's vocabulary ends "
                        + $"at {model.Info.Vocabulary - 1}; tokenizer.json in {modelPath} belongs to another model");
            if (training.Balance > 0 && !training.BalancesSequences) RequireSoftmaxRouters(model, "moe_aux_loss_coef", c);
            if (training.RouterZ > 0) RequireSoftmaxRouters(model, "router_z_loss_coef", c);
            if (keys.Trained is null && first is null && !lora.Experts && lora.Targets is null && model.All().OfType<ExpertBank>().Any())
                notes.Add("lora_target: all is attention, dense and shared experts, as KTransformers trains; routed experts stay as they are (lora_experts: "
                    + "true gives each an adapter)");
            if (trains is not null && keys.Trained is null) notes.Add(WholeModules.Describe(model, trains));
            var memory = keys.Trained is not null ? TrainingMemory.Choose(model, training.Memory, plan, notes)
                : TrainingMemory.Choose(model, lora, training.Memory, plan, windows.At(0, cancel).Batch.Tokens, notes);
            var disk = training.Memory.ExpertLoraFolder is { } folder ? new DiskMemory(folder) : null;
            if (disk?.Doubt is { } slow) notes.Add(slow);
            foreach (var bank in model.All().OfType<ExpertBank>())
                (bank.LoraOnHost, bank.LoraDisk) = (memory.GetValueOrDefault(bank.Device).LoraOnHost, disk);
            var adapter = new LoraAdaptation(lora, modelPath, keys.Adapter, training.Seed, keys.Log) { Form = keys.Form };
            IAdaptation adaptation = keys.Trained is not null ? new WeightAdaptation(modelPath, trains!) : adapter;
            if (objective.Needs == Scores.Values) adaptation = new RewardAdaptation(adaptation, keys.Adapter ?? modelPath, training.Seed);
            adaptation.Attach(model);
            if (referenceAhead)
            {
                var step = new LayerMajorStep(model, training.ChunkRows);
                var scored = ReferenceScores.Of(step, [.. rows.Train, .. rows.HeldOut], windows.At(0, cancel).Batch.Tokens, loading, cancel);
                rows = rows with { Train = scored[..rows.Train.Length], HeldOut = scored[rows.Train.Length..] };
                windows = Windows();
            }
            var identity = FineTuneIdentity.Of(keys, c, rowsHash, windows.TotalSteps, model, adapter.Settings.Additional);
            var builder = new RunBuilder
            {
                Model = model,
                Objective = objective,
                Adaptation = adaptation,
                Windows = windows,
                Settings = training,
                Identity = identity,
                HeldOut = rows.HeldOut,
                Memory = memory,
                Ranks = ranks,
                Complete = (result, state) =>
                {
                    FineTuneFiles.CopyTokenizer(modelPath, training.OutputDir);
                    FineTuneFiles.WriteArguments(training.OutputDir, c, identity);
                    ModelCard.Write(training.OutputDir, keys, identity, result, state);
                },
            };
            return new FineTuneRun(keys, builder, adapter.Settings, rows, tokenizer) { Notes = [.. notes, .. model.Notes] };
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    private static void RequireSoftmaxRouters(CausalLm model, string key, Settings c)
    {
        var where = c.Where(key);
        var routers = model.All().OfType<MoeMlp>().ToArray();
        if (routers.Length == 0) throw new ArgumentException($"{where}: this model has no routers; leave {key} out");
        if (Array.Exists(routers, m => m.Settings.Scoring == Ops.RouterScoring.Sigmoid))
            throw new ArgumentException($"{where}: the routers of this model have sigmoid scores and are balanced by a correction bias, which stays as it is; "
                + $"leave {key} out{(key == "moe_aux_loss_coef" ? ", or give moe_aux_loss_form: sequence, as DeepSeek-V3 has it beside the bias" : "")} "
                + "(log_routing: true shows their balance)");
    }

    /// <summary>What is wrong with the settings or the output folder is said before anything is read; the checkpoint that will be gone on from.</summary>
    private static string? Start(FineTuneKeys keys, ICollective ranks)
    {
        var training = keys.Training.Checked();
        foreach (var (key, path) in new[] { ("model_name_or_path", keys.ModelPath), ("adapter_name_or_path", keys.Adapter) })
            if (path is not null && Same(path, training.OutputDir))
                throw new ArgumentException($"output_dir is {key} too, {path}: give another folder, so that it stays as it is");
        if (ranks.IsFirst()) FolderLock.RequireFree(training.OutputDir, "output_dir"); // the first rank's lock, when another is late
        return RunStart.Choose(training);

        static bool Same(string a, string b) =>
            Path.TrimEndingDirectorySeparator(Path.GetFullPath(a)) == Path.TrimEndingDirectorySeparator(Path.GetFullPath(b));
    }

    public TrainResult Run(CancellationToken cancel = default) => Trainer.Run(cancel);

    public void Dispose() => Model.Dispose();
}
