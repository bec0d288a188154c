using System.Runtime.InteropServices;

using KtNotebooks.Bench;
using KtNotebooks.Configuration;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tests.Weights;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>A model comes to its home without being anywhere else on the way, and what the process takes is what the plan says.</summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // it counts the memory of the process
public partial class LoadingTests
{
    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)] private static partial int setenv(string name, string value, int overwrite);

    /// <summary>What a process adds to weights: the heap of .NET, code that runs for the first time.</summary>
    private const long Small = 16 << 20;

    private static string Wide(string config) => config.Replace("\"hidden_size\": 40", "\"hidden_size\": 512", StringComparison.Ordinal)
        .Replace("\"moe_intermediate_size\": 18", "\"moe_intermediate_size\": 320", StringComparison.Ordinal)
        .Replace("\"n_routed_experts\": 4", "\"n_routed_experts\": 64", StringComparison.Ordinal);

    [Theory]
    [InlineData("as stored")]
    [InlineData("INT8")]
    public void Loading_takes_what_the_plan_says_and_never_two_copies(string format)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        var path = LowBitFolder.Save(Path.Combine(folder.Path, "model"), StorageFormat.Fp8, wide: true, change: Wide);
        string[] keys = ["device=cuda:0", "experts=streamed", .. format == "INT8" ? ["kt_config.kt_backend=INT8"] : (string[])[]];
        var plan = MemoryPlan.Open([path, .. keys]);
        var settings = PlacementSettings.Read(Settings.Read(["model_name_or_path=" + path, .. keys]));
        using (ModelFolder.Load(path, plan: ModelFolder.Plan(path, settings))) HostPages.Trim(); // what runs for the first time
        GC.Collect();
        using var memory = new HostPeak();
        using var model = ModelFolder.Load(path, plan: ModelFolder.Plan(path, settings));
        var (now, peak) = memory.Grown();
        var (said, experts) = (plan.Total("cpu"), model.All().OfType<ExpertBank>().Sum(b => b.StoredBytes));
        Assert.InRange(experts, 60 << 20, 1.01 * said);
        Assert.InRange(now, (0.98 * said) - Small, (1.02 * said) + Small);
        Assert.True(peak < said + (format == "INT8" ? experts / 2 : 0) + Small, $"at the peak {peak:N0} bytes, by plan {said:N0}"); // two banks
    }

    [Theory]
    [InlineData("bf16")]
    [InlineData("fp8")]
    [InlineData("int4")]
    [InlineData("mxfp4")]
    public void Weights_that_are_made_in_their_pinned_home_are_the_same(string format)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        ExpertBank Bank(bool unmade) => new(new PatternWeights(Device.Cpu, StorageFormat.Parse(format)) { Unmade = unmade },
            ExpertNames.Each("model.layers.1.x"), DType.BF16, 4, 256, 128);
        using var executors = new ExpertExecutors();
        using var plain = Bank(unmade: false);
        using var unmade = Bank(unmade: true);
        Assert.Throws<InvalidOperationException>(() => unmade.Set.Gate.Pointer(0)); // nobody reads what is not there
        executors.Stream([unmade], Device.Cuda(), 2 * plain.ExpertBytes);
        foreach (var (a, b) in ((Matrices, Matrices)[])[(plain.Set.Gate, unmade.Set.Gate), (plain.Set.Up, unmade.Set.Up), (plain.Set.Down, unmade.Set.Down)])
            for (var e = 0; e < 4; e++) Assert.Equal(a.ToFloats(e, DType.F32), b.ToFloats(e, DType.F32));
    }

    [Fact]
    public void A_driver_that_locks_no_memory_of_ours_allocates_it()
    {
        if (!Require.EmulatedCard) Assert.Skip("for the emulated card: KT_EMULATE_CUDA=1 ./kt test Loading");
        var card = CudaDevice.Get(0);
        Assert.Equal(0, setenv("KT_EMULATED_REGISTER", "0", 1));
        try
        {
            Check();
        }
        finally
        {
            _ = setenv("KT_EMULATED_REGISTER", "1", 1);
            PinnedMemory.AskAgain();
        }
        Check();

        unsafe void Check()
        {
            const long Bytes = HostPages.Large + 12345;
            using var memory = new PinnedMemory(card, Bytes, address => new Span<byte>((void*)address, (int)Bytes).Fill(7));
            using var there = Tensor.Empty(DType.U8, Device.Cuda(), Bytes);
            card.Fetch(there.Pointer, memory.Pointer, Bytes);
            card.Copies.Synchronize();
            using var back = there.ToHost();
            Assert.Equal(-1, back.Span<byte>().IndexOfAnyExcept((byte)7));
        }
    }

    [Fact]
    public void A_bank_that_cannot_be_read_frees_what_was_taken_for_it()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var (card, before) = (CudaDevice.Get(0), HostMemory.Own);
        for (var i = 0; i < 8; i++)
            Assert.Throws<IOException>(() => new PinnedMemory(card, 64 << 20, address =>
            {
                HostPages.Touch(address, 64 << 20, 2);
                throw new IOException("the disk");
            }));
        Assert.InRange(HostMemory.Own - before, long.MinValue, 64 << 20);
    }

    [Fact]
    public void Large_buffers_go_back_to_the_system_when_they_are_freed()
    {
        HostPages.Trim();
        var before = HostMemory.Own;
        Tensor[] many = [.. Enumerable.Range(0, 32).Select(_ => Tensor.Zeros(DType.U8, 8 << 20))];
        Assert.InRange(HostMemory.Own - before, 250 << 20, 300 << 20);
        foreach (var tensor in many) tensor.Dispose();
        Assert.InRange(HostMemory.Own - before, long.MinValue, 140 << 20); // a little is kept for the next one
        HostPages.Trim();
        Assert.InRange(HostMemory.Own - before, long.MinValue, 12 << 20);
    }
}
