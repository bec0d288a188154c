using KtNotebooks.Files;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Files;

public class AtomicFileTests
{
    [Fact]
    public void A_writer_that_throws_leaves_the_old_file_and_nothing_else()
    {
        using var folder = new Samples.Folder();
        var path = folder.Write("x.txt", "old");
        Assert.Throws<InvalidOperationException>(() => AtomicFile.Write(path, 3, stream =>
        {
            stream.Write("ne"u8);
            throw new InvalidOperationException("the source broke");
        }));
        Assert.Equal("old", File.ReadAllText(path));
        Assert.Equal([path], Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public void What_a_person_calls_tmp_stays()
    {
        using var folder = new Samples.Folder();
        var mine = folder.Write("x.txt.tmp", "mine");
        AtomicFile.WriteText(Path.Combine(folder.Path, "x.txt"), "new");
        Assert.Equal("mine", File.ReadAllText(mine));
        Assert.Equal(2, Directory.GetFileSystemEntries(folder.Path).Length);
    }

    [Fact]
    public void A_folder_or_a_device_in_the_file_s_place_is_named()
    {
        using var folder = new Samples.Folder();
        Assert.StartsWith($"{folder.Path}: cannot be written: a folder", Assert.Throws<IOException>(() => AtomicFile.WriteText(folder.Path, "x")).Message,
            StringComparison.Ordinal);
        Assert.StartsWith("/dev/null: cannot be written: ", Assert.Throws<IOException>(() => AtomicFile.WriteText("/dev/null", "x")).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void Too_little_disk_is_said_before_anything_is_made()
    {
        using var folder = new Samples.Folder();
        var path = Path.Combine(folder.Path, "new", "x.bin");
        var error = Assert.Throws<IOException>(() => AtomicFile.Write(path, long.MaxValue / 2, _ => Assert.Fail("must not be asked to write")));
        Assert.StartsWith($"{path}: not enough disk: ", error.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public void A_disk_that_fills_while_writing_keeps_no_half_file()
    {
        using var disk = new SmallDisk(1);
        var error = Assert.ThrowsAny<IOException>(() => AtomicFile.Write(Path.Combine(disk.Path, "x.bin"), expectedBytes: 0, stream =>
        {
            for (var i = 0; i < 64; i++) stream.Write(new byte[1 << 16]);
        }));
        Assert.Equal($"{Path.Combine(disk.Path, "x.bin")}: cannot be written: No space left on device", error.Message);
        Assert.Empty(Directory.GetFileSystemEntries(disk.Path));
    }

    [Fact]
    public void Safetensors_know_their_size_and_refuse_a_small_disk()
    {
        using var disk = new SmallDisk(1);
        using var large = Tensor.Zeros(DType.F32, 600, 1000);
        var path = Path.Combine(disk.Path, "x.safetensors");
        Assert.StartsWith($"{path}: not enough disk: 2.4 MB are needed",
            Assert.Throws<IOException>(() => SafetensorsWriter.Write(path, [("x", large)])).Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(disk.Path));
    }
}
