using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json.Nodes;
using KtNotebooks.Configuration;
using KtNotebooks.Course.Synthetic;
using KtNotebooks.Data;
using KtNotebooks.Experts;
using KtNotebooks.Files;
using KtNotebooks.Interop;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;
using KtNotebooks.Weights;

namespace KtNotebooks.Course;

/// <summary>
/// Full-parameter training of a small model from nothing, as the built-in kt-tiny was made: a tokenizer is learned from the corpus, then the model of a
/// config.json on endless rows of the project's own plain questions and answers. Keys: model_config, output_dir, source (tables of the corpus), template,
/// vocab_size, tokenizer_dataset, corpus_order, tokens_per_step, max_steps, learning_rate, warmup_steps, weight_decay, aux_loss_alpha, seed, device (cuda:N;
/// else the CPU).
/// </summary>
public sealed class PretrainRun : IDisposable
{
    private static readonly string[] Specials = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"];

    private PretrainRun(RunBuilder parts, Tokenizer tokenizer) =>
        (Model, Tokenizer, Training, Trainer) = (parts.Model, tokenizer, parts.Settings, parts.Build());

    public CausalLm Model { get; }

    public Tokenizer Tokenizer { get; }

    public TrainSettings Training { get; }

    public Trainer Trainer { get; }

    /// <summary>What a person should know before it starts.</summary>
    public IReadOnlyList<string> Notes { get; private init; } = [];

    public static PretrainRun Open(params string[] arguments)
    {
        var c = Settings.Read(arguments);
        var configPath = c.Required("model_config");
        var training = new TrainSettings
        {
            OutputDir = c.Required("output_dir"),
            LearningRate = c.Number("learning_rate", 1e-3),
            Schedule = c.OneOf("lr_scheduler_type", "cosine", LearningRate.Known),
            WarmupSteps = c.Int("warmup_steps", 100),
            MaxGradientNorm = c.Number("max_grad_norm", 1),
            Adam = new AdamWSettings(0.9, c.Number("adam_beta2", 0.95), 1e-8, c.Number("weight_decay", 0.05)),
            DecaysAll = true, // as kt-tiny was made
            LoggingSteps = c.Number("logging_steps", 10),
            SaveSteps = c.Number("save_steps", 0),
            Seed = (ulong)c.Int("seed", 42),
            ChunkRows = c.Int("chunk_size", 8192),
            Overwrite = c.Flag("overwrite_output_dir"),
            ResumeFrom = ResumeFrom.Parse(c.Text("resume_from_checkpoint")),
        }.Checked();
        FolderLock.RequireFree(training.OutputDir, "output_dir");
        var from = RunStart.Choose(training);
        var knowledge = KnowledgeBase.Load(c.Text("source"));
        var template = Templates.Get(c.Text("template", "deepseek"));
        var (vocabulary, tokenizerRows) = (c.Positive("vocab_size"), c.Positive("tokenizer_rows"));
        var (tokensPerStep, steps) = (c.MaybePositive("tokens_per_step") ?? 8192, c.MaybePositive("max_steps") ?? 1000);
        var balance = c.Number("aux_loss_alpha") is >= 0 and var alpha ? (float)alpha : throw c.Wrong("aux_loss_alpha", "0 or more");
        var (datasetDir, tokenizerDataset) = (c.TextOrDefault("dataset_dir"), c.Text("tokenizer_dataset"));
        var even = c.OneOf("corpus_order") == "even";
        if (c.MaybePositive("cpu_infer") is { } threads) Cpu.Configure(null, Math.Min(threads, Environment.ProcessorCount));
        var device = c.TextOrDefault("device");
        if (device is not ("auto" or "cpu") && !device.StartsWith("cuda:", StringComparison.Ordinal)) throw c.Wrong("device", "auto, cpu or cuda:N");
        var notes = c.Finish("kt pretrain").ToList();
        var chatTemplate = TemplateJinja.Of(template);
        if (chatTemplate is null)
            notes.Add($"no chat_template is written: what template: {template.Name} does is not told by one; "
                + "give the template by name where the model is used");

        var config = new ConfigFile(configPath);
        var styles = tokenizerDataset is null ? [] : DatasetLoader.Load(datasetDir, tokenizerDataset);
        var tokenizer = from is not null && File.Exists(Path.Combine(from, "tokenizer.json")) ? Tokenizer.Load(from)
            : LearnTokenizer(knowledge, tokenizerRows, vocabulary, training.Seed, styles);
        if (chatTemplate is not null) tokenizer = tokenizer.WithChatTemplate(chatTemplate);
        if (tokenizer.VocabSize > config.Int("vocab_size"))
            throw new ArgumentException($"{configPath}: vocab_size {config.Int("vocab_size")} is smaller than the tokenizer's {tokenizer.VocabSize}");
        var model = ModelFolder.Build(config, new RandomWeights(training.Seed), DType.F32);
        if (device.StartsWith("cuda:", StringComparison.Ordinal)) model = OnCard(model, configPath, tokenizer, device);
        var adaptation = new FullAdaptation(configPath, tokenizer);
        adaptation.Attach(model);
        foreach (var moe in model.All().OfType<MoeMlp>()) moe.Settings = moe.Settings with { Balance = balance };
        var windows = new CorpusWindows(knowledge, new SftEncoder(template, tokenizer, 512, trainOnPrompt: true), tokensPerStep, steps, training.Seed, even);
        List<(string, JsonNode?)> effective =
        [
            ("template", template.Name), ("vocab_size", vocabulary), ("tokenizer_rows", tokenizerRows), ("tokens_per_step", tokensPerStep),
            ("max_steps", steps), ("aux_loss_alpha", balance),
            ("learning_rate", training.LearningRate), ("lr_scheduler_type", training.Schedule), ("warmup_steps", training.WarmupSteps),
            ("max_grad_norm", training.MaxGradientNorm),
            ("adam_beta2", training.Adam.Beta2), ("weight_decay", training.Adam.WeightDecay), ("seed", training.Seed),
            ("text of model_config (sha256)", Convert.ToHexStringLower(SHA256.HashData(RegularFile.ReadAllBytes(configPath, "a model's config.json")))[..16]),
            ("first rows of source (sha256)", Convert.ToHexStringLower(SHA256.HashData(MemoryMarshal.AsBytes<int>(windows.At(0).Batch.Ids)))[..16]),
        ];
        var parts = new RunBuilder
        {
            Model = model,
            Objective = new SftObjective(), // whose rows learn the questions too
            Adaptation = adaptation,
            Windows = windows,
            Settings = training,
            Identity = new RunIdentity(effective, c.Given, steps),
            Memory = new Dictionary<Device, TrainingMemory> { [Device.Cpu] = TrainingMemory.OnHost(training.Memory) },
        };
        return new PretrainRun(parts, tokenizer) { Notes = notes };
    }

    public TrainResult Run(CancellationToken cancel = default) => Trainer.Run(cancel);

    public void Dispose() => Model.Dispose();

    /// <summary>The same weights on a card: models get there as those of a folder.</summary>
    private static CausalLm OnCard(CausalLm model, string configPath, Tokenizer tokenizer, string device)
    {
        var folder = Directory.CreateTempSubdirectory("kt-pretrain-").FullName;
        try
        {
            using (model) new FullAdaptation(configPath, tokenizer).Save(model, folder, finished: false);
            var plan = ModelFolder.Plan(folder, new PlacementSettings { Device = device }, DType.F32, _ => _ => true);
            return ModelFolder.Load(folder, DType.F32, plan);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static Tokenizer LearnTokenizer(KnowledgeBase knowledge, int rows, int vocabulary, ulong seed, IReadOnlyList<Example> styles)
    {
        var corpus = new PlainQa(knowledge).Stream(seed).Take(rows).SelectMany(r => new[] { r.Instruction, r.Output });
        // Styles that the model will be fine-tuned on: their characters should be tokens, though the model never sees the texts.
        var others = styles.SelectMany(e => e.Prompt.Select(m => m.Content).Append(e.Answer));
        return BpeTrainer.Train(corpus.Concat(others), vocabulary, Specials);
    }

    /// <summary>Rows of the corpus in their order, whole rows until a window is full. Windows are made one after another; going back starts again.</summary>
    private sealed class CorpusWindows(KnowledgeBase knowledge, SftEncoder encoder, int tokensPerStep, int steps, ulong seed, bool even)
        : IWindowSource
    {
        private IEnumerator<QaRow>? _rows;
        private int _next;

        public int TotalSteps => steps;

        public int Epochs => 1;

        public int BatchSize => 1;

        public (TokenBatch Batch, double Epoch) At(int step, CancellationToken cancel = default)
        {
            if (_rows is null || step < _next) (_rows, _next) = (new PlainQa(knowledge).Stream(seed + 1, even).GetEnumerator(), 0);
            TokenBatch? batch = null;
            for (; _next <= step; _next++) batch = Collect(_rows);
            return (batch!, (step + 1.0) / steps);
        }

        private TokenBatch Collect(IEnumerator<QaRow> rows)
        {
            List<EncodedExample> window = [];
            for (var tokens = 0; tokens < tokensPerStep; tokens += window[^1].Ids.Length)
            {
                rows.MoveNext();
                window.Add(encoder.Encode(ToExample(rows.Current)));
            }
            return ExampleWindows.Batch(window);
        }

        private static Example ToExample(QaRow row)
        {
            var history = (row.History ?? []).SelectMany(turn => new[] { new Message(Role.User, turn[0]), new Message(Role.Assistant, turn[1]) });
            return new Example([.. history, new Message(Role.User, row.Instruction)], [new Message(Role.Assistant, row.Output)], null, null, "corpus");
        }
    }
}
