using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>
/// What the keys of a training config say, before anything is loaded. Whoever has read them asks <see cref="Settings.Finish"/> about what is left.
/// </summary>
public sealed record FineTuneKeys
{
    /// <summary>The folder of model_name_or_path.</summary>
    public required string ModelPath { get; init; }

    public required ITrainingObjective Objective { get; init; }

    public required LoraSettings Lora { get; init; }

    /// <summary>finetuning_type: full or freeze: the model's own weights that are trained; null: an adapter.</summary>
    public TrainedParts? Trained { get; init; }

    /// <summary>lora_form: how the pairs of routed experts are written.</summary>
    public ExpertForm Form { get; init; }

    public required LossReduction Reduction { get; init; }

    /// <summary>Of weights and activations: F32 or BF16.</summary>
    public required DType Type { get; init; }

    /// <summary>adapter_name_or_path: the adapter to go on with; null: a new one.</summary>
    public string? Adapter { get; init; }

    public required TrainSettings Training { get; init; }

    public required DataSettings Data { get; init; }

    /// <summary>Rows of a micro-batch, and micro-batches of a step.</summary>
    public required int Batch { get; init; }

    /// <inheritdoc cref="Batch"/>
    public required int Accumulation { get; init; }

    public required double Epochs { get; init; }

    /// <summary>Steps in place of epochs, when positive.</summary>
    public required int MaxSteps { get; init; }

    /// <summary>What the order of the rows comes from; null: they keep their own (disable_shuffling).</summary>
    public required int? OrderSeed { get; init; }

    public required PlacementSettings Placement { get; init; }

    /// <summary>Hears where every tensor of an adapter goes; null: nobody asked.</summary>
    public Action<string>? Log { get; init; }

    /// <summary>What a person should know before it starts.</summary>
    public required IReadOnlyList<string> Notes { get; init; }

    /// <param name="c">The config.</param>
    /// <param name="outputToo">output_dir must be there: a run writes.</param>
    public static FineTuneKeys Read(Settings c, bool outputToo = true)
    {
        ArgumentNullException.ThrowIfNull(c);
        List<string> notes = [];
        var objective = KnownObjectives.Read(c);
        RequireSupported(c);
        if (outputToo) RequireTraining(c);
        var trained = TrainedParts.Read(c);
        WhatElseIsAsked(c, notes);
        var placement = PlacementSettings.Read(c);
        var lora = ReadLora(c);
        if (placement.SkipExpertLora && lora.Experts)
            throw new ArgumentException($"{c.Where("lora_experts")}: lora_experts and a kt_backend that ends in _SkipLoRA exclude each other");
        notes.AddRange(placement.Notes);
        var training = ReadTraining(c, outputToo);
        if (training.Evaluations.Strategy != When.No && training.Best.Metric != "loss" && !objective.Metrics.Contains(training.Best.Metric))
            throw c.Wrong("metric_for_best_model", $"{string.Join(", ", objective.Metrics.Prepend("loss"))} with stage: {objective.Stage}");
        var seed = c.MaybeInt("data_seed") ?? c.Int("seed");
        return new FineTuneKeys
        {
            ModelPath = SourceKeys.Model(c),
            Objective = objective,
            Lora = lora,
            Trained = trained,
            Form = ReadForm(c, lora),
            Reduction = c.OneOf("loss_reduction", c.Flag("use_kt") ? "micro" : "token", "token", "micro") == "micro" ? LossReduction.Micro
                : LossReduction.Token,
            Type = ReadType(c),
            Adapter = SourceKeys.Adapter(c, "kt train"),
            Training = training,
            Data = DataKeys.Read(c),
            Batch = c.Int("per_device_train_batch_size"),
            Accumulation = c.Int("gradient_accumulation_steps"),
            Epochs = c.Number("num_train_epochs"),
            MaxSteps = c.Int("max_steps"),
            OrderSeed = c.Flag("disable_shuffling") ? null : seed,
            Placement = placement,
            Log = LogLevel.Debug(c),
            Notes = notes,
        };
    }

    /// <summary>The keys of the adapter.</summary>
    public static LoraSettings ReadLora(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var alpha = c.MaybeNumber("lora_alpha") is { } given and not 0 ? given : (double?)null; // LLaMA-Factory takes 0 for nothing given
        return new LoraSettings(c.Int("lora_rank"), alpha, c.Number("lora_dropout"), c.List("lora_target"), c.Flag("lora_experts"),
            ReadPattern(c, "rank_pattern", c.MaybePositive), ReadPattern(c, "alpha_pattern", c.MaybeNumber), c.Flag("use_rslora"),
            c.Flag("use_dora"), ReadPissa(c), c.List("additional_target")).Checked();
    }

    /// <summary>The settings of a run that goes on with an adapter: the adapter's own, and lora_dropout where it is given.</summary>
    /// <exception cref="ArgumentException">A key asks for another form of adapter than this one has.</exception>
    internal LoraSettings GoingOn(AdapterSource adapter, Settings c)
    {
        var first = adapter.Settings;
        const string Experts = ".experts.";
        string[] modules = [.. adapter.Tensors.Keys.Where(name => name.EndsWith(".lora_A.weight", StringComparison.Ordinal)).Select(AdapterNames.ModuleOf)];
        var ofExperts = modules.ToLookup(m => m.Contains(Experts, StringComparison.Ordinal));
        string[] targets = [.. ofExperts[false].Select(m => m[(m.LastIndexOf('.') + 1)..]).Distinct().Order(StringComparer.Ordinal)];
        void Same(string key, bool asked, string has)
        {
            if (c.Has(key) && asked)
                throw new ArgumentException($"{c.Where(key)}: {key} is {c.Text(key)}, but the run goes on with {Adapter}, {has}: leave the key out, or train a "
                    + "new adapter (without adapter_name_or_path; kt export merges the old one into the base first)");
        }
        Same("lora_rank", Lora.Rank != first.Rank, $"whose rank is {first.Rank}");
        Same("lora_alpha", Lora.Alpha is { } alpha && alpha != first.EffectiveAlpha, $"whose alpha is {first.EffectiveAlpha}");
        Same("lora_target", Lora.Targets is { } named && !named.ToHashSet().SetEquals(targets), $"which has pairs of {string.Join(", ", targets)}");
        Same("lora_experts", Lora.Experts && !ofExperts[true].Any(), "which has no pairs of routed experts");
        Same("use_rslora", Lora.RankStabilised != first.RankStabilised, $"which is {(first.RankStabilised ? "" : "not ")}rank-stabilised");
        Same("use_dora", Lora.Dora != first.Dora, $"which has {(first.Dora ? "" : "no ")}magnitudes");
        Same("pissa_init", Lora.Pissa is not null, "whose pairs have begun");
        Same("rank_pattern", Lora.RankPattern is { Count: > 0 } && first.RankPattern is not { Count: > 0 }, "which has one rank");
        Same("alpha_pattern", Lora.AlphaPattern is { Count: > 0 } && first.AlphaPattern is not { Count: > 0 }, "which has one alpha");
        return first with { Dropout = c.Has("lora_dropout") ? Lora.Dropout : first.Dropout, Experts = ofExperts[true].Any(), Target = targets };
    }

    /// <summary>
    /// What chooses the model's own weights that a run trains: those of full and freeze, or the modules that an adapter has whole; null: none.
    /// </summary>
    /// <param name="first">modules_to_save of the adapter that is gone on with.</param>
    /// <param name="c">The config, for errors.</param>
    /// <exception cref="ArgumentException">The adapter has others than the config names, or the stage compares with a base that they would change.</exception>
    public Func<CausalLm, Func<string, bool>>? WithModulesOf(IReadOnlyList<string>? first, Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        if (Trained is not null) return Trained.Of;
        if (Adapter is not null && Lora.Additional is { } asked && !asked.ToHashSet().SetEquals(first ?? []))
            throw new ArgumentException($"{c.Where("additional_target")}: additional_target is for new adapters; {Adapter} goes on with "
                + $"{(first is null ? "pairs alone" : string.Join(", ", first))} (modules_to_save): leave the key out");
        if ((Adapter is null ? Lora.Additional : first) is not { } names) return null;
        if (Adapter is not null && Objective.Needs == Scores.PolicyAndReference)
            throw new ArgumentException($"{c.Where("adapter_name_or_path")}: stage: {Objective.Stage} compares with the base as it was, and {Adapter} has "
                + $"taken the place of its {string.Join(", ", names)} (modules_to_save): merge it with kt export and train the folder that it writes, or give "
                + "pref_loss: orpo or simpo, which need no reference");
        return shape => WholeModules.WeightsOf(shape, names).ToHashSet().Contains;
    }

    /// <summary>Rounds of pissa_init; null: it is off.</summary>
    private static int? ReadPissa(Settings c)
    {
        var rounds = c.Int("pissa_iter");
        if (c.Flag("pissa_init")) return rounds;
        c.Ignore("pissa_iter", "it belongs to pissa_init: true");
        return null;
    }

    private static ExpertForm ReadForm(Settings c, LoraSettings lora)
    {
        if (c.OneOf("lora_form") == "per_expert") return ExpertForm.Each;
        if (!lora.Experts) throw c.Wrong("lora_form", "per_expert without lora_experts: true, for there are no pairs on experts");
        if (lora.RankPattern is not null || lora.AlphaPattern is not null)
            throw c.Wrong("lora_form", "per_expert with rank_pattern or alpha_pattern: pairs on parameters of experts have one rank");
        return ExpertForm.Parameters;
    }

    /// <summary>A block of patterns of module paths and numbers, as PEFT has them; null: none is given.</summary>
    private static Dictionary<string, T>? ReadPattern<T>(Settings c, string block, Func<string, T?> read) where T : struct
    {
        c.Has(block);
        var pattern = new Dictionary<string, T>();
        foreach (var key in c.Given.Keys.Where(k => k.StartsWith(block + ".", StringComparison.Ordinal)))
            if (read(key) is { } value) pattern[key[(block.Length + 1)..]] = value;
        return pattern.Count == 0 ? null : pattern;
    }

    /// <summary>The type of weights and activations.</summary>
    public static DType ReadType(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var pure = c.Flag("pure_bf16");
        return c.OneOf("infer_dtype") == "float32" || (!c.Flag("bf16") && !pure) ? DType.F32 : DType.BF16;
    }

    private static TrainSettings ReadTraining(Settings c, bool outputToo)
    {
        var warmup = c.Number("warmup_steps"); // transformers 5: below 1 it is a share
        return new TrainSettings
        {
            OutputDir = outputToo ? c.Required("output_dir") : c.Text("output_dir", ""),
            LearningRate = c.Number("learning_rate"),
            Schedule = c.OneOf("lr_scheduler_type"),
            WarmupRatio = warmup is > 0 and < 1 ? warmup : c.Number("warmup_ratio"),
            WarmupSteps = warmup is > 0 and < 1 ? 0 : c.Int("warmup_steps"),
            MaxGradientNorm = c.Number("max_grad_norm"),
            Optimizer = ReadOptimizer(c),
            LoraPlus = c.MaybeNumber("loraplus_lr_ratio"),
            ScheduleDetails = ScheduleKeys.Read(c),
            Noise = c.MaybeNumber("neftune_noise_alpha") ?? 0,
            Balance = c.MaybeNumber("moe_aux_loss_coef") ?? 0,
            BalancesSequences = ReadsSequenceBalance(c),
            RouterZ = c.MaybeNumber("router_z_loss_coef") ?? 0,
            ReportsToMlflow = (c.List("report_to") ?? []).Contains("mlflow"),
            LogsRouting = c.Flag("log_routing"),
            Best = ReadBest(c),
            Patience = c.MaybeInt("early_stopping_steps"),
            EventFolder = ReadTrackers(c, outputToo),
            Adam = new AdamWSettings(c.Number("adam_beta1"), c.Number("adam_beta2"), c.Number("adam_epsilon"), c.Number("weight_decay")),
            LoggingStrategy = ReadWhen(c, "logging_strategy") ?? When.Steps,
            LoggingSteps = c.Number("logging_steps"),
            LogFirstStep = c.Flag("logging_first_step"),
            SaveStrategy = ReadWhen(c, "save_strategy") ?? When.Steps,
            SaveSteps = c.Number("save_steps"),
            SaveTotalLimit = c.MaybeInt("save_total_limit"),
            SaveOnlyModel = c.Flag("save_only_model"),
            EvalStrategy = ReadWhen(c, "eval_strategy"),
            EvalSteps = c.MaybeNumber("eval_steps"),
            EvalOnStart = c.Flag("eval_on_start"),
            LoadBestAtEnd = c.Flag("load_best_model_at_end"),
            ResumeFrom = ResumeFrom.Parse(c.Text("resume_from_checkpoint")),
            Seed = (ulong)c.Int("seed"),
            ChunkRows = c.Positive("chunk_size"),
            Overwrite = c.Flag("overwrite_output_dir"),
            Memory = ReadMemory(c),
            PlotLoss = c.Flag("plot_loss"),
        };
    }

    /// <summary>moe_aux_loss_form.</summary>
    private static bool ReadsSequenceBalance(Settings c)
    {
        if (c.MaybeNumber("moe_aux_loss_coef") is not > 0) c.Ignore("moe_aux_loss_form", "it says what moe_aux_loss_coef weighs, which is not given");
        return c.OneOf("moe_aux_loss_form") == "sequence";
    }

    private static TrainingMemoryKeys ReadMemory(Settings c)
    {
        var memory = TrainingMemoryKeys.Read(c);
        if (memory.ExpertLoraFolder is not null && ReadOptimizer(c) is not "adamw" and var other)
            throw new ArgumentException($"{c.Where("expert_lora")}: expert_lora: disk is for optim: adamw_torch, not {other}: write expert_lora: host");
        return memory;
    }

    private static string ReadOptimizer(Settings c)
    {
        var muon = c.Flag("use_muon");
        return c.OneOf("optim") switch
        {
            var adam when adam.Contains("adamw", StringComparison.Ordinal) => muon ? "muon" : "adamw",
            "muon" => "muon",
            var other when muon => throw c.Wrong("use_muon", $"false with optim: {other}"),
            var same and ("adafactor" or "sgd") => same,
            _ => "lion",
        };
    }

    /// <summary>As transformers: a metric whose name ends in loss is the better the smaller, any other the better the greater, unless it is said.</summary>
    private static Best ReadBest(Settings c)
    {
        var metric = c.TextOrDefault("metric_for_best_model");
        if (metric.StartsWith("eval_", StringComparison.Ordinal)) metric = metric["eval_".Length..];
        return new Best(metric, c.FlagOrNull("greater_is_better", null) ?? !metric.EndsWith("loss", StringComparison.Ordinal));
    }

    /// <summary>The folder of event files, or null.</summary>
    private static string? ReadTrackers(Settings c, bool outputToo)
    {
        var trackers = c.List("report_to") ?? [];
        foreach (var other in trackers.Except(["none", "tensorboard", "mlflow", "all"]))
            c.Ignore("report_to", $"{other} is not reported to: trainer_log.jsonl, TensorBoard's event files and MLflow (report_to: tensorboard, mlflow) hold "
                + "the run");
        var folder = c.Text("logging_dir");
        if (!trackers.Contains("tensorboard") && !trackers.Contains("all"))
        {
            c.Ignore("logging_dir", "it is the folder of report_to: tensorboard");
            return null;
        }
        return folder ?? (outputToo ? Path.Combine(c.Required("output_dir"), "runs") : null);
    }

    /// <summary>no, steps or epoch; null: not given.</summary>
    private static When? ReadWhen(Settings c, string key) => c.Text(key) is null ? null
        : c.OneOf(key, "no", "no", "steps", "epoch") switch { "no" => When.No, "steps" => When.Steps, _ => When.Epoch };

    private static void RequireSupported(Settings c)
    {
        c.OneOf("infer_backend");
    }

    /// <summary>A config of LLaMA-Factory's that predicts and says nothing of training is none for kt train.</summary>
    private static void RequireTraining(Settings c)
    {
        if (c.Flag("do_predict") && !c.Has("do_train"))
            throw new ArgumentException($"{c.Where("do_predict")}: do_predict is true and do_train is not there: this config predicts, `kt predict` with the "
                + "same file does that; to train first, write do_train: true");
    }

    /// <summary>What LLaMA-Factory would do before or after the training, or in its place.</summary>
    private static void WhatElseIsAsked(Settings c, List<string> notes)
    {
        var (evaluate, predict) = (c.Flag("do_eval"), c.Flag("do_predict"));
        if (!c.Flag("do_train"))
            throw c.Wrong("do_train", $"true for kt train ({(predict ? "predictions: `kt predict`" : evaluate ? "an evaluation: `kt eval`"
                : "answers of a trained model: `kt predict`, `kt eval` or `kt chat`")} with the same file)");
        if (predict)
            notes.Add($"{c.Where("do_predict")}: do_predict: afterwards, `kt predict` with the same file and adapter_name_or_path set to output_dir predicts");
        var asks = evaluate ? "do_eval" : c.Has("eval_strategy") && c.Text("eval_strategy") != "no" ? "eval_strategy" : c.MaybeNumber("eval_steps") > 0
            ? "eval_steps" : null;
        if (asks is not null && !c.Has("eval_dataset") && c.Number("val_size") == 0)
            notes.Add($"{c.Where(asks)}: {asks}: there is nothing to evaluate on; give eval_dataset or val_size");
    }
}
