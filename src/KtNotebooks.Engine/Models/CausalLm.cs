using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>What the engine must know of any model, whatever its architecture.</summary>
/// <param name="ModelType">`model_type` of config.json.</param>
/// <param name="Vocabulary">V.</param>
/// <param name="Width">D.</param>
/// <param name="Layers">Decoder layers.</param>
/// <param name="MaxPositions">Longest sequence that the model was made for.</param>
public record ModelInfo(string ModelType, int Vocabulary, int Width, int Layers, int MaxPositions);

/// <summary>A decoder: token table → stages (two a layer) → final norm → head. Models fill in the stages.</summary>
public sealed class CausalLm(ModelInfo info, DType type, Embedding embedding, IReadOnlyList<Stage> stages, RmsNorm norm, Linear head) : Module("")
{
    private const long LookEveryMilliseconds = 100;
    private bool _isFreed;
    private long _lastLook = -LookEveryMilliseconds;
    private readonly ExpertBank[] _banks = [.. stages.SelectMany(s => s.All()).OfType<ExpertBank>()];

    public ModelInfo Info { get; } = info;

    /// <summary>Type of weights and activations.</summary>
    public DType Type { get; } = type;

    /// <summary>What a person should know about how this model was loaded.</summary>
    public IReadOnlyList<string> Notes { get; set; } = [];

    /// <summary>What PEFT has before the paths of modules, where this model is a part of a larger one.</summary>
    internal string TensorPrefix { get; set; } = "";

    /// <summary>The files that its mapped weights lie in.</summary>
    internal IReadOnlyList<SafetensorsFile> Files { get; set; } = [];

    /// <summary>What the experts of this model share on cards; owned by it, null where all are computed by the CPU.</summary>
    internal ExpertExecutors? Executors { get; set; }

    /// <summary>Matrices of layers that come from host memory; owned by this model, null where none do.</summary>
    internal StageVisits? Visits { get; set; }

    public Embedding Embedding { get; } = embedding;

    public IReadOnlyList<Stage> Stages { get; } = stages;

    public RmsNorm Norm { get; } = norm;

    public Linear Head { get; } = head;

    /// <summary>What a reward model has beside the head; owned by this model, null for most.</summary>
    public ValueHead? ValueHead { get; set; }

    public override IEnumerable<Module> Children => ValueHead is { } values ? [Embedding, .. Stages, Norm, Head, values] : [Embedding, .. Stages, Norm, Head];

    /// <summary>This model, whose weights are there.</summary>
    /// <exception cref="InvalidOperationException">They were freed.</exception>
    internal CausalLm RequireWeights() => !_isFreed ? this
        : throw new InvalidOperationException("the model was freed: in a notebook the cell that loads it ran again. Run the cells behind that one again too, "
            + "so that they take the new one");

    protected override void DisposeOwn()
    {
        _isFreed = true;
        Executors?.Dispose();
        Visits?.Dispose();
    }

    /// <summary>Every weight under its checkpoint name.</summary>
    public IEnumerable<Parameter> AllWeights => All().SelectMany(m => m.Weights);

    /// <summary>Every tensor that training changes now.</summary>
    public IReadOnlyList<Parameter> AllTrainable => [.. All().SelectMany(m => m.Trainable)];

    /// <summary>Hidden states before the final norm, [T, D], without gradients. Owned by the current tape, or by the caller.</summary>
    public Tensor Hidden(TokenBatch batch, CacheBatch? cache = null) => Hidden(batch, Pass.Inference(batch, cache));

    /// <summary>The same in a pass of the caller's.</summary>
    public Tensor Hidden(TokenBatch batch, Pass pass)
    {
        ArgumentNullException.ThrowIfNull(batch);
        ArgumentNullException.ThrowIfNull(pass);
        RequireWhole();
        ExpertStreams.Plan(_banks, batch.Tokens);
        Visits?.Plan(Enumerable.Range(0, Stages.Count), repeated: true);
        var x = Apart(() => pass.Cache?.Lists is { Rows.Ids.Length: > 0 } lists ? Embedding.Forward(lists, Stages[0].Device)
            : Embedding.Forward(batch.Ids));
        for (var i = 0; i < Stages.Count; i++)
        {
            var stage = Stages[i];
            using var below = x;
            using var here = Visits?.Open(i);
            x = Apart(() => stage.Forward(Ops.Transfer.Apply(below, stage.Device), pass));
        }
        return Autograd.Tape.Own(x);
    }

    /// <summary>
    /// Fails when a file that weights are mapped from has been cut. Asked at every pass, and in training at every visit of a stage, but ten times a second at
    /// most. One that is cut within a visit still ends the process (SIGBUS); only weights that are copied into memory are safe from that.
    /// </summary>
    /// <exception cref="InvalidDataException">One has.</exception>
    internal void RequireWhole()
    {
        var now = Environment.TickCount64;
        if (now - Volatile.Read(ref _lastLook) < LookEveryMilliseconds) return;
        foreach (var file in Files) file.RequireWhole();
        Volatile.Write(ref _lastLook, now);
    }

    /// <summary>
    /// The result of a stretch of ops alone: what it needed on the way is freed at once, or a long prompt would hold the activations of all layers.
    /// </summary>
    private static Tensor Apart(Func<Tensor> compute)
    {
        using var tape = Autograd.Tape.Scratch();
        return tape.Keep(compute());
    }

    /// <summary>Final norm and head: [R, D] → [R, V].</summary>
    public Tensor Logits(Tensor hidden, Pass pass) => Head.Forward(Norm.Forward(Ops.Transfer.Apply(hidden, Norm.Device)), pass);

    /// <summary>Logits of every row of a batch, [T, V], without gradients. The caller disposes it.</summary>
    public Tensor Logits(TokenBatch batch)
    {
        using var tape = Autograd.Tape.Scratch();
        return tape.Keep(Logits(Hidden(batch), Pass.Inference(batch)));
    }

    /// <summary>Sets weights to train themselves; experts must be stacked, all of a bank or none.</summary>
    /// <param name="trains">Which, by name; null: all. What no loss has a gradient of (a router's correction bias, sinks) stays as it is.</param>
    public void Unfreeze(Func<string, bool>? trains = null)
    {
        foreach (var module in All())
        {
            if (module is ExpertBank bank)
            {
                if (trains?.Invoke(bank.Names.Gate.Weight(0)) != false) bank.Unfreeze();
                continue;
            }
            if (!module.CanLearn) continue;
            foreach (var (name, tensor) in module.Weights) tensor.RequiresGrad = trains?.Invoke(name) != false;
        }
    }
}
