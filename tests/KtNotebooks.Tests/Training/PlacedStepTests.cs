using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>
/// Whole optimizer steps of a model on a card: wherever experts, their pairs, moments and saved inputs are, the adapter becomes what it becomes on the CPU.
/// </summary>
[Trait("card", "cuda")]
[Collection("cpu variant")]
public sealed class PlacedStepTests : IDisposable
{
    private readonly Samples.Folder _folder = new();
    private readonly string _model;

    public PlacedStepTests() => _model = Tiny.Save(Path.Combine(_folder.Path, "model"));

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(ExecutorKind.Streamed, true, true)]
    [InlineData(ExecutorKind.Streamed, true, true, true)]
    [InlineData(ExecutorKind.Resident, true, false, true)]
    [InlineData(ExecutorKind.Split, true, false, true)]
    [InlineData(ExecutorKind.Resident, true, false)]
    [InlineData(ExecutorKind.Split, true, false)]
    [InlineData(ExecutorKind.Streamed, false, true)]
    public void The_adapter_is_the_same_wherever_things_are(ExecutorKind experts, bool pairsOnHost, bool momentsOnHost, bool pairsOnDisk = false)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var plain = ModelFolder.Load(_model, DType.F32);
        var expected = Train(plain, false, long.MaxValue);
        using var model = ModelFolder.Load(_model, DType.F32, ModelFolder.Plan(_model, new PlacementSettings
        {
            Device = "cuda:0",
            Experts = experts,
        }, DType.F32));
        var disk = new DiskMemory(Path.Combine(_folder.Path, "offload"));
        foreach (var bank in model.All().OfType<ExpertBank>())
        {
            // Half the bank a side: the two groups on the card take as long over the bus as the two of the CPU.
            if (experts == ExecutorKind.Split) bank.Use(new SplitExperts(((SplitExperts)bank.Executor).Streamed, new ExpertCosts(1e3, 1e3, 1e18, 1e18)));
            (bank.LoraOnHost, bank.LoraDisk) = (pairsOnHost, pairsOnDisk ? disk : null);
            if (experts == ExecutorKind.Split) Assert.Equal(2, bank.GroupVisits(40, backward: true).Count());
        }
        var actual = Train(model, momentsOnHost, savedBytes: 0);
        Assert.Equal(pairsOnDisk, disk.Length > 0);
        Assert.Equal(expected.Loss, actual.Loss, 1e-4);
        foreach (var (name, values) in expected.Adapter)
        {
            var norm = Math.Sqrt(values.Sum(v => (double)v * v));
            Assert.True(Math.Sqrt(values.Zip(actual.Adapter[name], (a, b) => Math.Pow(a - b, 2)).Sum()) < 1e-3 * norm, name);
        }
    }

    /// <summary>Loss of the last of three AdamW steps, and the adapter.</summary>
    private static (double Loss, Dictionary<string, float[]> Adapter) Train(CausalLm model, bool momentsOnHost, long savedBytes)
    {
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Dropout: 0.2, Experts: true), seed: 4);
        var parameters = model.AllTrainable;
        using var optimizer = new AdamW(parameters, new AdamWSettings(), _ => momentsOnHost);
        var step = new LayerMajorStep(model, savedBytes: _ => savedBytes);
        double loss = 0;
        for (var s = 0; s < 3; s++)
        {
            loss = step.Run(Tiny.Batch(1, [5, 11, 1, 13, 8, 2]), dropoutKey: (ulong)s, cancel: TestContext.Current.CancellationToken);
            optimizer.Step(0.01, Gradients.ClipScale(Gradients.Norm(parameters), 1));
        }
        return (loss, parameters.ToDictionary(p => p.Name, p => p.Tensor.ToFloats()));
    }
}
