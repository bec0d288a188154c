using System.Security.Cryptography;

using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>`expert_lora: disk` and `offload_folder`: runs whose adapters of experts have their home on a disk.</summary>
[Collection("cpu variant")]
public class ExpertLoraOnDiskTests(Workplace place) : IClassFixture<Workplace>
{
    [Fact]
    [Trait("card", "cuda")]
    public void A_run_leaves_what_it_leaves_from_memory_also_when_it_was_stopped_and_goes_on()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var fromMemory = Run("memory", "experts=streamed", "expert_lora=host");
        Assert.Equal(fromMemory, Run("disk", "experts=streamed", "expert_lora=disk", $"offload_folder={Offload}"));
        var stop = new CancellationTokenSource();
        using (var run = Open("stopped", "experts=streamed", "expert_lora=disk", $"offload_folder={Offload}"))
        {
            foreach (var bank in run.Model.All().OfType<ExpertBank>())
                Assert.All(bank.Trainable, p => Assert.Equal(Offload, p.Tensor.OnDisk?.Memory.Folder));
            run.Trainer.OnStep += s =>
            {
                if (s.Step == 2) stop.Cancel();
            };
            Assert.True(run.Run(stop.Token).Interrupted);
        }
        Assert.Equal(fromMemory, Run("stopped", "experts=streamed", "expert_lora=disk", $"offload_folder={Offload}"));
        Assert.Empty(Directory.GetFileSystemEntries(Offload));
    }

    [Fact]
    public void What_it_cannot_do_is_refused()
    {
        Assert.Contains("expert_lora: disk is for experts that a card computes, but model.layers.1.mlp.experts is computed by the CPU",
            Assert.Throws<ArgumentException>(() => Open("cpu", "device=cpu", "expert_lora=disk")).Message, StringComparison.Ordinal);
        Assert.Contains("expert_lora: disk is for optim: adamw_torch, not lion",
            Assert.Throws<ArgumentException>(() => Open("lion", "device=cpu", "expert_lora=disk", "optim=lion")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_folder_without_a_use_is_said()
    {
        using var run = Open("unused", "device=cpu", "offload_folder=away");
        Assert.Contains(run.Notes, n => n.Contains("offload_folder", StringComparison.Ordinal) && n.Contains("expert_lora: disk", StringComparison.Ordinal));
    }

    private string Offload => Path.Combine(place.Root, "offload");

    private FineTuneRun Open(string output, params string[] pairs) => FineTuneRun.Open([.. place.Train($"output_dir={Path.Combine(place.Root, output)}",
        "device=cuda:0", "infer_dtype=float32", "lora_experts=true", "per_device_train_batch_size=6", "plot_loss=false")[1..], .. pairs]);

    private string Run(string output, params string[] pairs)
    {
        using (var run = Open(output, pairs)) Assert.False(run.Run(TestContext.Current.CancellationToken).Interrupted);
        return Convert.ToHexString(SHA256.HashData(File.ReadAllBytes(Path.Combine(place.Root, output, "adapter_model.safetensors"))));
    }
}
