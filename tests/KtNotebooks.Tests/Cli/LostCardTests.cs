using System.Text.RegularExpressions;

using KtNotebooks.Interop.Cuda;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>
/// `kt train` when its card is lost or full in the middle of a run: one line that says what, where and how to go on, an end without a hang, and a run that
/// can be resumed to the same adapter.
/// </summary>
[Trait("card", "cuda")]
public class LostCardTests
{
    private const string Device = @"cuda:0 \(emulated card, \d+ GB, sm_\d+\)";

    [Theory]
    [InlineData("streamed")]
    [InlineData("resident")]
    public void A_run_whose_card_is_lost_goes_on_from_its_checkpoint_to_the_same_adapter(string experts)
    {
        Emulated();
        using var place = new Workplace();
        string[] pairs = ["save_steps=2", "max_steps=6", "device=cuda:0", "experts=" + experts, "lora_experts=true"];
        Assert.Equal(0, Kt.Run(place.Train([.. pairs, $"output_dir={place.Output}-straight"])).Exit);
        using (var kt = Kt.StartWith("KT_EMULATED_FAULT", "lost@" + Path.Combine(place.Output, "checkpoint-4"), place.Train(pairs)))
        {
            var (exit, _, errors) = kt.End();
            Assert.Equal(3, exit);
            Assert.Matches(
                $@"^kt: {Device} was lost in step 5 of 6 \(\d+ tokens\), [a-z]+( of layer \d)?: .*CUDA_ERROR_LAUNCH_FAILED.*\. "
                    + $@"The same command goes on from {Regex.Escape(Path.Combine(place.Output, "checkpoint-4"))}\. "
                    + @"nvidia-smi .*; device=cpu does without it\n$", errors);
        }
        Assert.Equal(["checkpoint-2", "checkpoint-4"], Directory.GetDirectories(place.Output).Select(Path.GetFileName).Order());
        var (again, output, none) = Kt.Run(place.Train(pairs));
        Assert.Equal((0, ""), (again, none));
        Assert.Contains($"resumed from {Path.Combine(place.Output, "checkpoint-4")} at step 4 of 6", output, StringComparison.Ordinal);
        Assert.Equal(File.ReadAllBytes(Path.Combine(place.Output + "-straight", "adapter_model.safetensors")),
            File.ReadAllBytes(Path.Combine(place.Output, "adapter_model.safetensors")));
    }

    [Fact]
    public void A_card_that_is_lost_while_a_model_answers_is_said()
    {
        Emulated();
        using var place = new Workplace();
        using var kt = Kt.StartWith("KT_EMULATED_FAULT", "lost@40", "predict", $"model_name_or_path={place.Model}", "template=deepseek",
            $"dataset_dir={Path.Combine(place.Root, "data")}", "eval_dataset=good", $"output_dir={place.Output}", "device=cuda:0");
        var (exit, _, errors) = kt.End();
        Assert.Equal(3, exit);
        Assert.Matches($@"^kt: {Device} was lost on the way: .*CUDA_ERROR_LAUNCH_FAILED.*\n$", errors);
    }

    [Fact]
    public void A_card_that_is_full_says_at_what_and_which_keys_help()
    {
        Emulated();
        using var place = new Workplace();
        var refused = Kt.Refuses(place.Train("device=cuda:0", "gpu_memory_limit=0.5MiB", "per_device_train_batch_size=24", "save_steps=1"));
        Assert.Matches(
            @"^step 1 of 1 \(\d+ tokens\), [a-z]+( of layer \d)?: cuda:0 has no room for [\d.]+ [KM]iB: "
                + @".* are free on the card, .* are in use here, gpu_memory_limit is 512 KiB\. "
                + @"Less is needed with a smaller chunk_size .*Nothing is saved yet", refused);
        var small = Kt.Refuses(place.Train("device=cuda:0", "gpu_memory_limit=0.1MiB"));
        Assert.True(Regex.IsMatch(small, $@"^{Regex.Escape(place.Model)}: does not fit, after [\w. ]+ had come in: \[Tensor\] [^:]+: cuda:0 has no room for"),
            small);
    }

    private static void Emulated()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        if (!Require.EmulatedCard) Assert.Skip("a real card is not to be lost");
    }
}
