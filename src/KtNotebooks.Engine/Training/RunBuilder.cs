using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>A run as stage × adaptation: on what objective a model learns, what of it, and from which windows. Makes the trainer.</summary>
public sealed record RunBuilder
{
    /// <summary>The adaptation is attached to it.</summary>
    public required CausalLm Model { get; init; }

    public required ITrainingObjective Objective { get; init; }

    public required IAdaptation Adaptation { get; init; }

    public required IWindowSource Windows { get; init; }

    public required TrainSettings Settings { get; init; }

    public required RunIdentity Identity { get; init; }

    /// <summary>Rows whose loss is measured on the way and at the end.</summary>
    public IReadOnlyList<EncodedExample> HeldOut { get; init; } = [];

    /// <inheritdoc cref="Trainer.Memory"/>
    public IReadOnlyDictionary<Device, TrainingMemory> Memory { get; init; } = new Dictionary<Device, TrainingMemory>();

    /// <inheritdoc cref="Trainer.Ranks"/>
    public ICollective Ranks { get; init; } = SingleRank.Instance;

    /// <inheritdoc cref="Trainer.Complete"/>
    public Action<TrainResult, TrainerState>? Complete { get; init; }

    public Trainer Build() => new(Model, Windows, Settings, Save, HeldOut.Count > 0 ? ExampleWindows.Batch(HeldOut, Objective) : null)
    {
        Objective = Objective,
        Memory = Memory,
        Ranks = Ranks,
        LoadWeights = folder => Adaptation.Load(Model, folder),
        Identity = Identity,
        Complete = Complete,
    };

    private void Save(string folder) => Adaptation.Save(Model, folder, finished: Path.GetFullPath(folder) == Path.GetFullPath(Settings.OutputDir));
}
