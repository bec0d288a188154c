using KtNotebooks.Interop.Cuda;

using Xunit;

namespace KtNotebooks.Tests.Interop.Cuda;

public sealed class KernelCacheTests : IDisposable
{
    private readonly string _folder = Path.Combine(Path.GetTempPath(), $"kt-cache-{Guid.NewGuid():N}");

    public void Dispose()
    {
        if (Directory.Exists(_folder)) Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public void What_was_compiled_once_is_read_from_disk()
    {
        var first = new KernelCache(_folder);
        Assert.Equal([1, 2, 3], first.Get("key", () => [1, 2, 3]));
        Assert.Equal([1, 2, 3], first.Get("key", () => throw new InvalidOperationException("compiled twice")));
        Assert.Equal([1, 2, 3], new KernelCache(_folder).Get("key", () => throw new InvalidOperationException("not found on disk")));
        Assert.Equal(1, first.Compilations);
        Assert.Equal([first.FileOf("key")], Directory.GetFiles(_folder));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(10)]
    [InlineData(40)]
    public void A_damaged_file_is_compiled_again(int keep)
    {
        var cache = new KernelCache(_folder);
        cache.Get("key", () => new byte[100]);
        var file = cache.FileOf("key");
        File.WriteAllBytes(file, File.ReadAllBytes(file)[..keep]);
        Assert.Equal([7], cache.Get("key", () => [7]));
        Assert.Equal([7], cache.Get("key", () => throw new InvalidOperationException("the new file is not good either")));
    }

    [Fact]
    public void A_folder_that_cannot_be_written_costs_only_time()
    {
        File.WriteAllText(_folder, "a file where the folder should be");
        try
        {
            Assert.Equal([1], new KernelCache(_folder).Get("key", () => [1]));
        }
        finally
        {
            File.Delete(_folder);
        }
    }

    [Fact]
    public void Source_options_and_compiler_are_all_in_the_key()
    {
        string[] keys = [KernelCache.Key("a", ["-x"], 12009), KernelCache.Key("b", ["-x"], 12009), KernelCache.Key("a", ["-y"], 12009),
            KernelCache.Key("a", ["-x"], 13000), KernelCache.Key("a", ["-x", "-y"], 12009)];
        Assert.Equal(keys.Length, keys.Distinct().Count());
    }
}
