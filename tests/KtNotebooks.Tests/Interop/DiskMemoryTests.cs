using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>Memory whose home is a disk.</summary>
public sealed class DiskMemoryTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void What_is_written_is_there_after_its_pages_were_let_go()
    {
        var disk = new DiskMemory(_folder.Path);
        using var tensor = disk.Zeros(DType.F32, 3, 5000);
        for (var i = 0; i < 15000; i++) tensor.Span<float>()[i] = i;
        tensor.OnDisk!.LetGo();
        tensor.OnDisk.Ahead();
        for (var i = 0; i < 15000; i++) Assert.Equal(i, tensor.Span<float>()[i]);
    }

    [Fact]
    public void A_piece_that_somebody_had_is_zeros_again()
    {
        var disk = new DiskMemory(_folder.Path);
        using var other = disk.Zeros(DType.F32, 7); // keeps the file
        nint before;
        using (var tensor = disk.Zeros(DType.F32, 1000))
        {
            before = tensor.Pointer;
            tensor.Span<float>().Fill(1);
        }
        using var again = disk.Zeros(DType.F32, 1000);
        Assert.Equal(before, again.Pointer);
        Assert.All(again.ToFloats(), v => Assert.Equal(0, v));
    }

    [Fact]
    public void Tensors_do_not_share_bytes_whatever_their_sizes()
    {
        var disk = new DiskMemory(_folder.Path);
        long[] sizes = [1, 1024, 1025, 30_000_000, 5, 4096];
        Tensor[] tensors = [.. sizes.Select(n => disk.Zeros(DType.F32, n))];
        for (var i = 0; i < tensors.Length; i++) tensors[i].Span<float>().Fill(i + 1);
        for (var i = 0; i < tensors.Length; i++) Assert.False(tensors[i].Span<float>().ContainsAnyExcept(i + 1f));
        foreach (var tensor in tensors) tensor.Dispose();
    }

    [Fact]
    public void Files_have_no_name_and_go_with_their_last_tensor()
    {
        var disk = new DiskMemory(_folder.Path);
        var tensor = disk.Zeros(DType.F32, 10);
        Assert.True(disk.Length > 0);
        if (!OperatingSystem.IsWindows()) Assert.Empty(Directory.GetFileSystemEntries(_folder.Path));
        tensor.Dispose();
        Assert.Equal(0, disk.Length);
    }

    [Fact]
    public void A_disk_without_room_is_one_line()
    {
        var disk = new DiskMemory(_folder.Path);
        var error = Assert.Throws<IOException>(() => disk.Zeros(DType.F32, 1L << 44));
        Assert.Contains($"offload_folder: {_folder.Path}: a file of 70,369 GB", error.Message, StringComparison.Ordinal);
        Assert.Contains("GB are free there", error.Message, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(_folder.Path));
    }

    [Fact]
    public void A_folder_that_cannot_be_made_is_one_line()
    {
        var file = Path.Combine(_folder.Path, "file");
        File.WriteAllText(file, "");
        var disk = new DiskMemory(Path.Combine(file, "under"));
        Assert.DoesNotContain("cannot", disk.Doubt ?? "", StringComparison.Ordinal); // asked first, it says nothing of its own
        var error = Assert.Throws<IOException>(() => disk.Zeros(DType.F32, 4));
        Assert.Contains("the folder cannot be made", error.Message, StringComparison.Ordinal);
    }
}
