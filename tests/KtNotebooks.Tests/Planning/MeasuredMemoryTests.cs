using KtNotebooks.Nn;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Planning;

/// <summary>What a plan predicts against what a step allocates.</summary>
[Collection(Alone.Name)]
public class MeasuredMemoryTests
{
    [Theory]
    [InlineData(DType.F32, 64, 8192)]
    [InlineData(DType.F32, 64, 64)]
    [InlineData(DType.BF16, 96, 8192)]
    public void A_step_needs_what_the_plan_says_and_not_much_less(DType type, int sequence, int chunk)
    {
        using var folder = new Samples.Folder();
        var config = folder.Write("config.json", Tiny.Config);
        var plan = MemoryPlan.Open(config, "tokens_per_step=" + (4 * sequence), "cutoff_len=" + sequence, "chunk_size=" + chunk, "lora_rank=3", "lora_experts=true", "bf16=" + (type == DType.BF16 ? "true" : "false"));
        using var model = Tiny.WithAdapter(type);
        // The plan knows no labels, so every row is taken to have a target: here they have.
        var builder = new TokenBatch.Builder();
        int[] ids = [.. Enumerable.Range(0, sequence).Select(i => i * 7 % Tiny.Vocabulary)];
        for (var s = 0; s < 4; s++) builder.Add(ids, ids, 1f / (4 * (sequence - 1)));
        var batch = builder.Build();
        var before = Tiny.Alive().Bytes;
        KtNotebooks.Tensors.Buffer.ResetPeak();
        new LayerMajorStep(model, chunk).Run(batch, cancel: TestContext.Current.CancellationToken);
        var used = KtNotebooks.Tensors.Buffer.PeakBytes - before;
        var said = plan.Bytes("cpu", MemoryPlan.Gradients) + plan.Bytes("cpu", MemoryPlan.Inputs) + plan.Bytes("cpu", MemoryPlan.Workspace);
        Assert.InRange(used, 0.9 * said, said);
        Tiny.DropGradients(model);
    }
}
