using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>A run of six steps, three an epoch, on the tiny model.</summary>
internal static class TinyRun
{
    public static CausalLm Model(LoraSettings lora)
    {
        var model = Tiny.Build();
        LoraAdapter.Attach(model, lora);
        return model;
    }

    public static Trainer Trainer(CausalLm model, TrainSettings settings, LoraSettings lora, bool evaluate, double epochs = 2)
    {
        var random = new Random(8);
        EncodedExample[] examples = [.. Enumerable.Range(0, 11).Select(_ => Enumerable.Range(0, random.Next(4, 20)).Select(_ => random.Next(60)).ToArray())
            .Select(ids => new EncodedExample(ids, ids, "x:1"))];
        var windows = new ExampleWindows(examples, 2, 2, epochs, maxSteps: -1, LossReduction.Token, seed: 4);
        var heldOut = evaluate ? ExampleWindows.Batch(examples[..4]) : null;
        (string, JsonNode?)[] effective = [("learning_rate", settings.LearningRate), ("num_train_epochs", epochs)];
        var identity = new RunIdentity(effective, new Dictionary<string, string?>(), windows.TotalSteps);
        return new Trainer(model, windows, settings, folder => AdapterFolder.Save(model, lora, folder, "base"), heldOut)
        {
            LoadWeights = folder => AdapterFolder.Resume(model, lora, folder),
            Identity = identity,
        };
    }

    public static (TrainResult Result, float[] Adapter) Train(
        TrainSettings settings, (int Step, Action Do)? atStep = null, Action<StepReport>? onStep = null, CancellationTokenSource? stop = null,
        bool evaluate = false, LoraSettings? lora = null, double epochs = 2, Action<string>? onNote = null)
    {
        lora ??= new LoraSettings(3, Dropout: 0.1, Experts: true);
        using var model = Model(lora);
        var trainer = Trainer(model, settings, lora, evaluate, epochs);
        trainer.OnNote += onNote;
        trainer.OnStep += s =>
        {
            onStep?.Invoke(s);
            if (s.Step == atStep?.Step) atStep.Value.Do();
        };
        var result = trainer.Run(stop?.Token ?? TestContext.Current.CancellationToken);
        return (result, [.. model.AllTrainable.SelectMany(p => p.Tensor.ToFloats())]);
    }

    /// <summary>Runs until a power cut after step 5.</summary>
    public static void Die(TrainSettings settings) => Assert.Throws<InvalidTimeZoneException>(() =>
        Train(settings, atStep: (5, () => throw new InvalidTimeZoneException("power cut"))));
}
