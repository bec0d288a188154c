using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>
/// Experts that come from the checkpoint's shards: every byte in its place, whatever the files look like; and disks that do not do what they should.
/// </summary>
[Trait("card", "cuda")]
[Collection("cpu variant")]
public class DiskExpertsTests
{
    private static CancellationToken Cancel => TestContext.Current.CancellationToken;

    /// <summary>Blocks of a page, so that pieces are cut everywhere, or larger than a group; one block and reader, or several.</summary>
    [Theory]
    [InlineData("bf16", 1, 4096, 1, 1, null, true)]
    [InlineData("bf16", 3, 1 << 20, 4, 2, null, true)]
    [InlineData("fp8", 2, 3 * 4096, 3, 4, null, true)]
    [InlineData("fp8", 2, 1 << 20, 4, 2, "BF16", true)]
    [InlineData("fp8", 2, 4096, 2, 2, null, false)]
    [InlineData("int4", 1, 8192, 2, 2, null, true)]
    [InlineData("int4", 7, 1 << 20, 8, 8, null, false)]
    public void Every_byte_comes_to_its_place(string format, int shards, int block, int blocks, int readers, string? scales, bool direct)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        var path = DiskFixture.Write(Path.Combine(folder.Path, "m"), StorageFormat.Parse(format), banks: 2, shards, scales is null ? null
            : Enum.Parse<DType>(scales));
        using var checkpoint = new Checkpoint(path);
        ExpertBank[] banks = [DiskFixture.Bank(checkpoint), DiskFixture.Bank(checkpoint, 1)];
        ExpertBank[] mapped = [DiskFixture.Bank(checkpoint), DiskFixture.Bank(checkpoint, 1)];
        var disk = new TestDisk(direct: direct);
        using (var executors = new ExpertExecutors { NewRing = disk.Ring(blocks, readers, block) })
        {
            executors.Stream(banks, Device.Cuda(), 3 * banks[0].ExpertBytes, 2, onDisk: _ => true);
            for (var step = 0; step < 2; step++)
            {
                ExpertStreams.Plan([.. banks.Select(b => new BankVisit(b, false, 64)), .. banks.Reverse().Select(b => new BankVisit(b, true, 64))], Cancel);
                for (var b = 0; b < 2; b++)
                    for (var g = 0; g < 3; g++) DiskFixture.OpenAndCompare(banks[b], mapped[b], g);
                for (var b = 1; b >= 0; b--)
                    for (var g = 2; g >= 0; g--) DiskFixture.OpenAndCompare(banks[b], mapped[b], g);
            }
            Assert.True(disk.Reads > 2 * 2 * 3);
            foreach (var bank in banks) bank.Dispose();
        }
        foreach (var bank in mapped) bank.Dispose();
    }

    /// <summary>What the slots still hold is not read again, exactly as it is not copied again from memory.</summary>
    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(12)]
    public void The_disk_is_read_as_often_as_memory_is_copied(int slots)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        using var checkpoint = new Checkpoint(DiskFixture.Write(Path.Combine(folder.Path, "m"), StorageFormat.BF16, banks: 3));
        long Copied(bool onDisk)
        {
            ExpertBank[] banks = [.. Enumerable.Range(0, 3).Select(b => DiskFixture.Bank(checkpoint, b))];
            var disk = new TestDisk();
            using var executors = new ExpertExecutors { NewRing = disk.Ring() };
            executors.Stream(banks, Device.Cuda(), 2 * banks[0].ExpertBytes, slots, onDisk: _ => onDisk);
            ExpertStreams.Plan([.. banks.Select(b => new BankVisit(b, false, 64)), .. banks.Reverse().Select(b => new BankVisit(b, true, 64))], Cancel);
            void Visit(ExpertBank bank, IEnumerable<GroupVisit> groups)
            {
                foreach (var group in groups)
                {
                    bank.Stream!.Open(group);
                    bank.Stream.Close(group);
                }
            }
            foreach (var bank in banks) Visit(bank, bank.GroupVisits(64, false));
            foreach (var bank in banks.Reverse()) Visit(bank, bank.GroupVisits(64, true).Reverse());
            Assert.Equal(onDisk, executors.ReadBytes > 0);
            var (stored, copied) = (banks.Sum(b => b.StoredBytes), executors.CopiedBytes);
            if (slots == 12) Assert.Equal(stored, copied);
            if (onDisk) Assert.InRange(executors.ReadBytes, 1, copied + (32 * 4096));
            foreach (var bank in banks) bank.Dispose();
            return copied;
        }
        Assert.InRange(Copied(onDisk: true) - Copied(onDisk: false), -DiskFixture.E * 200_000, DiskFixture.E * 200_000);
    }

    [Fact]
    public void An_error_of_the_disk_is_one_line_and_the_next_try_reads_again()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        using var checkpoint = new Checkpoint(DiskFixture.Write(Path.Combine(folder.Path, "m"), StorageFormat.BF16));
        using var bank = DiskFixture.Bank(checkpoint);
        using var mapped = DiskFixture.Bank(checkpoint);
        var broken = true;
        var disk = new TestDisk((_, at) =>
        {
            if (Volatile.Read(ref broken) && at > 0) throw new IOException("the disk gives an error: Input/output error");
        });
        using var executors = new ExpertExecutors { NewRing = disk.Ring(block: 64 << 10) };
        executors.Stream([bank], Device.Cuda(), 4 * bank.ExpertBytes, 2, onDisk: _ => true);
        ExpertStreams.Plan([new BankVisit(bank, false, 64)], Cancel);
        var error = Assert.Throws<IOException>(() => DiskFixture.OpenAndCompare(bank, mapped, 0));
        Assert.Matches(@"^\S+model-00001-of-00001\.safetensors: tensor 'model\.layers\.0\.mlp\.experts\.\d\.\w+_proj\.weight', bytes \d+ to \d+ of the file: "
            + @"the disk gives an error: Input/output error; the run goes on from its last checkpoint with resume_from_checkpoint$", error.Message);
        Volatile.Write(ref broken, false);
        ExpertStreams.Plan([new BankVisit(bank, false, 64)], Cancel);
        DiskFixture.OpenAndCompare(bank, mapped, 0);
        DiskFixture.OpenAndCompare(bank, mapped, 1);
    }

    [Fact]
    public void A_file_that_ends_early_or_is_changed_meanwhile_is_named()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        var path = DiskFixture.Write(Path.Combine(folder.Path, "m"), StorageFormat.BF16);
        var shard = Path.Combine(path, "model-00001-of-00001.safetensors");
        string Message(TestDisk disk, Action? meanwhile = null)
        {
            using var checkpoint = new Checkpoint(path);
            using var bank = DiskFixture.Bank(checkpoint);
            using var executors = new ExpertExecutors { NewRing = disk.Ring() };
            executors.Stream([bank], Device.Cuda(), 4 * bank.ExpertBytes, 2, onDisk: _ => true);
            meanwhile?.Invoke();
            return Assert.Throws<InvalidDataException>(() => bank.Stream!.Open(new GroupVisit((StreamedExperts)bank.Executor, 0))).Message;
        }
        Assert.StartsWith($"{shard}: ended at byte ", Message(new TestDisk(after: got => got / 2)), StringComparison.Ordinal);
        Assert.Contains("while tensor 'model.layers.0.mlp.experts.", Message(new TestDisk(after: got => got / 2)), StringComparison.Ordinal);
        Assert.StartsWith($"{shard} has been changed while it was in use", Message(new TestDisk(), () =>
            File.SetLastWriteTimeUtc(shard, DateTime.UtcNow.AddHours(1))), StringComparison.Ordinal);
        Assert.StartsWith($"{shard} has been changed while it was in use", Message(new TestDisk(), () =>
        {
            using var file = new FileStream(shard, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            file.SetLength(file.Length - 10_000);
        }), StringComparison.Ordinal);
    }

    [Fact]
    public void A_slow_read_can_be_cancelled_and_comes_all_the_same_when_it_is_waited_for()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        using var checkpoint = new Checkpoint(DiskFixture.Write(Path.Combine(folder.Path, "m"), StorageFormat.BF16));
        using var bank = DiskFixture.Bank(checkpoint);
        using var mapped = DiskFixture.Bank(checkpoint);
        using var go = new ManualResetEventSlim();
        using var cancel = new CancellationTokenSource();
        var disk = new TestDisk((_, _) => go.Wait(Cancel));
        using var executors = new ExpertExecutors { NewRing = disk.Ring() };
        executors.Stream([bank], Device.Cuda(), 4 * bank.ExpertBytes, 2, onDisk: _ => true);
        ExpertStreams.Plan([new BankVisit(bank, false, 64)], cancel.Token);
        cancel.CancelAfter(50);
        Assert.ThrowsAny<OperationCanceledException>(() => DiskFixture.OpenAndCompare(bank, mapped, 0));
        ExpertStreams.Plan([new BankVisit(bank, false, 64)], Cancel);
        go.Set();
        DiskFixture.OpenAndCompare(bank, mapped, 0);
        DiskFixture.OpenAndCompare(bank, mapped, 1);
    }

    [Fact]
    public void A_disk_that_does_not_answer_does_not_hold_up_the_end()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        using var go = new ManualResetEventSlim();
        using var checkpoint = new Checkpoint(DiskFixture.Write(Path.Combine(folder.Path, "m"), StorageFormat.BF16));
        var disk = new TestDisk((_, _) => go.Wait(Cancel));
        using (var executors = new ExpertExecutors { NewRing = disk.Ring(patience: 0.05) })
        {
            using var bank = DiskFixture.Bank(checkpoint);
            executors.Stream([bank], Device.Cuda(), 4 * bank.ExpertBytes, 2, onDisk: _ => true);
            ExpertStreams.Plan([new BankVisit(bank, false, 64)], Cancel);
            Assert.True(SpinWait.SpinUntil(() => disk.Reads > 0, TimeSpan.FromSeconds(20)));
        }
        Assert.False(go.IsSet);
        go.Set();
    }

    [Fact]
    public void A_group_that_is_wanted_while_all_slots_are_being_filled_takes_one_of_them()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        using var checkpoint = new Checkpoint(DiskFixture.Write(Path.Combine(folder.Path, "m"), StorageFormat.Int4, banks: 2));
        using var bank = DiskFixture.Bank(checkpoint);
        using var other = DiskFixture.Bank(checkpoint, 1);
        using var mapped = DiskFixture.Bank(checkpoint, 1);
        var disk = new TestDisk((_, _) => Thread.Sleep(1));
        using var executors = new ExpertExecutors { NewRing = disk.Ring(1, 1, 4096) };
        executors.Stream([bank, other], Device.Cuda(), 4 * bank.ExpertBytes, 2, onDisk: _ => true);
        ExpertStreams.Plan([new BankVisit(bank, false, 64)], Cancel);
        DiskFixture.OpenAndCompare(other, mapped, 1);
        DiskFixture.OpenAndCompare(other, mapped, 0);
    }
}
