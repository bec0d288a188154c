using KtNotebooks.Files;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Files;

/// <summary>Models by their names, in caches as Hugging Face and ModelScope lay them out.</summary>
public sealed class HubCacheTests : IDisposable
{
    private const string Commit = "0123456789abcdef0123456789abcdef01234567";
    private readonly Samples.Folder _cache = new();

    private string Model => Path.Combine(_cache.Path, "models--org--tiny.v1");

    private string Snapshot => Path.Combine(Model, "snapshots", Commit);

    public void Dispose() => _cache.Dispose();

    [Fact]
    public void A_model_in_Hugging_Face_s_layout_loads_by_its_name()
    {
        Fill();
        Assert.Equal(Snapshot, HubCache.Resolve("org/tiny.v1", cacheDir: _cache.Path));
        Assert.Equal(Snapshot, HubCache.Resolve("org/tiny.v1", "main", _cache.Path));
        Assert.Equal(Snapshot, HubCache.Resolve("org/tiny.v1", Commit, _cache.Path));
        using var plain = Tiny.Build();
        using var linked = ModelFolder.Load(Snapshot, DType.F32);
        foreach (var (a, b) in plain.AllWeights.Zip(linked.AllWeights)) Assert.Equal(a.Tensor.ToFloats(), b.Tensor.ToFloats());
        Assert.Equal(Samples.Small.Encode("主人，今天"), Tokenizer.Load(Snapshot).Encode("主人，今天"));
    }

    [Fact]
    public void The_environment_says_where_the_cache_is()
    {
        Fill();
        using var home = new Samples.Folder();
        Directory.CreateSymbolicLink(Path.Combine(home.Path, "hub"), _cache.Path);
        string? Found(string variable, string value)
        {
            var before = Environment.GetEnvironmentVariable(variable);
            Environment.SetEnvironmentVariable(variable, value);
            try
            {
                return Path.GetRelativePath(value, HubCache.Resolve("org/tiny.v1"));
            }
            finally
            {
                Environment.SetEnvironmentVariable(variable, before);
            }
        }

        Assert.Equal($"models--org--tiny.v1/snapshots/{Commit}", Found("HF_HUB_CACHE", _cache.Path));
        Assert.Equal($"hub/models--org--tiny.v1/snapshots/{Commit}", Found("HF_HOME", home.Path));
        Directory.CreateDirectory(Path.Combine(home.Path, "models", "org", "tiny___v1"));
        Assert.Equal("models/org/tiny___v1", Found("MODELSCOPE_CACHE", home.Path));
    }

    [Theory]
    [InlineData("models/org/tiny___v1")]
    [InlineData("org/tiny___v1")]
    [InlineData("org/tiny.v1")]
    public void ModelScope_s_layouts_are_known(string folder)
    {
        var place = Path.Combine(_cache.Path, folder);
        Directory.CreateDirectory(place);
        Assert.Equal(place, HubCache.Resolve("org/tiny.v1", cacheDir: _cache.Path));
        Assert.Throws<FileNotFoundException>(() => HubCache.Resolve("org/tiny.v1", "v2", _cache.Path)); // which revision that is, nobody knows
    }

    [Theory]
    [InlineData("no/such/folder")]
    [InlineData("/nowhere/at-all")]
    [InlineData("name")]
    [InlineData("./org/name")]
    [InlineData("../name")]
    [InlineData("org/..")]
    public void What_is_no_name_is_itself(string path) => Assert.Equal(path, HubCache.Resolve(path, cacheDir: _cache.Path));

    [Fact]
    public void A_folder_that_exists_is_itself() => Assert.Equal(_cache.Path, HubCache.Resolve(_cache.Path));

    [Fact]
    public void What_is_not_there_is_said_with_where_was_looked_and_how_to_get_it() => Assert.Equal(
        $"org/gone: no such folder here, and no model or adapter of that name in {_cache.Path}; nothing is downloaded by kt: "
            + "get it with `hf download org/gone` or `modelscope download org/gone`, or name its folder",
        Assert.Throws<FileNotFoundException>(() => HubCache.Resolve("org/gone", cacheDir: _cache.Path)).Message);

    [Fact]
    public void A_revision_that_is_not_there_and_one_that_is_a_path_are_named()
    {
        Fill();
        Assert.Equal($"org/tiny.v1: {Model} has no snapshot of revision v2, only of {Commit}; `hf download org/tiny.v1 --revision v2` gets it",
            Assert.Throws<FileNotFoundException>(() => HubCache.Resolve("org/tiny.v1", "v2", _cache.Path)).Message);
        Assert.Throws<ArgumentException>(() => HubCache.Resolve("org/tiny.v1", "../../..", _cache.Path));
        File.WriteAllText(Path.Combine(Model, "refs", "main"), "../../../etc");
        Assert.Contains("must be the name of a file below", Assert.Throws<InvalidDataException>(() =>
            HubCache.Resolve("org/tiny.v1", cacheDir: _cache.Path)).Message);
    }

    /// <summary>Shards that the index names and that have not come yet; a plan and a tokenizer need none of them.</summary>
    [Fact]
    public void A_download_that_is_not_complete_is_said_where_weights_are_needed()
    {
        Fill();
        File.Delete(Path.Combine(Snapshot, "model.safetensors"));
        File.WriteAllText(Path.Combine(Model, "blobs", "abc.incomplete"), "");
        var hint = "; this is a snapshot in Hugging Face's cache, its download was broken off or still runs "
            + $"(1 *.incomplete in {Path.Combine(Model, "blobs")}): `hf download org/tiny.v1` goes on";
        Assert.EndsWith(hint, Assert.Throws<FileNotFoundException>(() => ModelFolder.Load(Snapshot)).Message);
        File.WriteAllText(Path.Combine(Snapshot, "model.safetensors.index.json"),
            """{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}""");
        Assert.Equal($"{Snapshot}: 2 of 2 shards are missing, the first is model-1.safetensors{hint}", Assert.Throws<FileNotFoundException>(() =>
            HubCache.Resolve("org/tiny.v1", cacheDir: _cache.Path)).Message);
        Assert.Equal(Snapshot, HubCache.Resolve("org/tiny.v1", cacheDir: _cache.Path, whole: false));
    }

    /// <summary>snapshots/COMMIT/FILE → ../../blobs/HASH, refs/main holds the commit.</summary>
    private void Fill()
    {
        using var made = new Samples.Folder();
        Tiny.Save(made.Path);
        Directory.CreateDirectory(Path.Combine(Model, "blobs"));
        Directory.CreateDirectory(Path.Combine(Model, "refs"));
        Directory.CreateDirectory(Snapshot);
        File.WriteAllText(Path.Combine(Model, "refs", "main"), Commit);
        foreach (var file in Directory.GetFiles(made.Path))
        {
            var hash = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(File.ReadAllBytes(file)));
            File.Copy(file, Path.Combine(Model, "blobs", hash));
            File.CreateSymbolicLink(Path.Combine(Snapshot, Path.GetFileName(file)), $"../../blobs/{hash}");
        }
    }
}
