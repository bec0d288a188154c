using KtNotebooks.Files;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Files;

/// <summary>One writer at a time in a folder, whatever became of the one before.</summary>
public sealed class FolderLockTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string At(string name) => Path.Combine(_folder.Path, name);

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void The_second_one_is_told_who_works_there_until_the_first_has_ended()
    {
        using (FolderLock.Inside(At("out"), "a training run", "output_dir"))
        {
            var message = Assert.ThrowsAny<IOException>(() => FolderLock.Inside(At("out"), "a prediction run", "output_dir")).Message;
            Assert.StartsWith($"output_dir {At("out")}: a training run (process {Environment.ProcessId} on {Environment.MachineName}, since ", message,
                StringComparison.Ordinal);
            Assert.EndsWith("works there; wait until it ends, or give another output_dir", message, StringComparison.Ordinal);
            Assert.Equal(message, Assert.ThrowsAny<IOException>(() => FolderLock.RequireFree(At("out"), "output_dir")).Message);
            FolderLock.Inside(At("other"), "a training run", "output_dir").Dispose();
        }
        FolderLock.RequireFree(At("out"), "output_dir");
        using (FolderLock.Inside(At("out"), "a prediction run", "output_dir")) File.WriteAllText(Path.Combine(At("out"), "a"), "");
        Assert.Equal("a", Path.GetFileName(Assert.Single(Directory.GetFileSystemEntries(At("out")))));
        Assert.False(Directory.Exists(At("other"))); // it made the folder, and nothing came into it
        Directory.CreateDirectory(At("there"));
        FolderLock.Inside(At("there"), "a prediction run", "output_dir").Dispose();
        Assert.Empty(Directory.GetFileSystemEntries(At("there")));
    }

    [Fact]
    public void Of_many_at_once_exactly_one_gets_it()
    {
        for (var round = 0; round < 20; round++)
        {
            var (inside, most, got) = (0, 0, 0);
            Parallel.For(0, 8, _ =>
            {
                try
                {
                    using var held = FolderLock.Beside(At("out"), "an export", "export_dir");
                    Interlocked.Exchange(ref most, Math.Max(most, Interlocked.Increment(ref inside)));
                    Interlocked.Increment(ref got);
                    Thread.Yield();
                    Interlocked.Decrement(ref inside);
                }
                catch (IOException error)
                {
                    Assert.Contains("works there", error.Message, StringComparison.Ordinal);
                }
            });
            Assert.Equal(1, most);
            Assert.InRange(got, 1, 8);
            Assert.Empty(Directory.GetFileSystemEntries(_folder.Path));
        }
    }

    [Fact]
    public void What_a_killed_run_left_is_taken_over_and_its_half_files_go()
    {
        _folder.Write("out/.kt-lock", $"{Environment.MachineName}\n{int.MaxValue}\n2020-01-01 00:00:00\na training run\nx\n");
        _folder.Write("out/mine.tmp", "a person's");
        _folder.Write("out/.kt-1.tmp", "a person's too");
        File.WriteAllText(OwnTemporary.In(At("out")), "half");
        File.WriteAllText(Path.Combine(Directory.CreateDirectory(OwnTemporary.In(At("out"))).FullName, "adapter"), "half");
        using var held = FolderLock.Inside(At("out"), "a training run", "output_dir");
        Assert.Equal([".kt-1.tmp", ".kt-lock", "mine.tmp"], Directory.GetFileSystemEntries(At("out")).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void What_another_host_left_is_not_taken_over()
    {
        var path = _folder.Write("out/.kt-lock", "far-away\n12\n2020-01-01 00:00:00\na training run\nx\n");
        var text = File.ReadAllText(path);
        var message = Assert.ThrowsAny<IOException>(() => FolderLock.Inside(At("out"), "a training run", "output_dir")).Message;
        Assert.Equal($"output_dir {At("out")}: a training run (process 12 on far-away, since 2020-01-01 00:00:00) began to work there and has not said "
            + $"that it ended; when it is gone, remove {path}, or give another output_dir", message);
        Assert.Equal(text, File.ReadAllText(path));
    }

    [Fact]
    public void A_file_in_the_folder_s_place_is_named()
    {
        var file = _folder.Write("file", "");
        Assert.Equal($"output_dir {file}/out: the folder cannot be made: {file} is a file",
            Assert.Throws<IOException>(() => FolderLock.Inside($"{file}/out", "a training run", "output_dir")).Message);
        Assert.Equal($"output_dir {file}/out: the folder cannot be made: {file} is a file",
            Assert.Throws<IOException>(() => FolderLock.RequireFree($"{file}/out", "output_dir")).Message);
        Assert.StartsWith("output_dir /proc/sys/out: cannot be written into: ",
            Assert.Throws<IOException>(() => FolderLock.RequireFree("/proc/sys/out", "output_dir")).Message, StringComparison.Ordinal);
        FolderLock.RequireFree(At("new/out"), "output_dir");
        Assert.False(Directory.Exists(At("new")));
        File.CreateSymbolicLink(At("dangling"), "gone");
        Assert.Contains($"{At("dangling")} is a link to gone, which is not there",
            Assert.Throws<IOException>(() => FolderLock.Inside(At("dangling/out"), "x", "output_dir")).Message, StringComparison.Ordinal);
        Assert.Contains("cannot be made: ", Assert.Throws<IOException>(() => FolderLock.Inside(At(new string('x', 300)), "x", "output_dir")).Message,
            StringComparison.Ordinal);
    }
}
