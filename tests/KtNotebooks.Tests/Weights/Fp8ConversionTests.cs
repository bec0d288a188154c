using System.Text.Json.Nodes;

using KtNotebooks.Interop;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Files;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Weights;

/// <summary>FP8 → BF16 as `kt convert` does it: PyTorch's bytes, resumable after a kill, bounded memory, nothing written where it cannot end well.</summary>
[Collection("cpu variant")]
public sealed class Fp8ConversionTests : IDisposable
{
    private static readonly string Golden = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Golden/fp8");
    private readonly Samples.Folder _folder = new();

    private string Target => Path.Combine(_folder.Path, "target");

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(null)]
    [InlineData(Cpu.Plain)]
    public void The_golden_checkpoint_becomes_the_bytes_of_pytorch(string? variant)
    {
        Cpu.Use(variant);
        try
        {
            Convert(Source());
        }
        finally
        {
            Cpu.Use(null);
        }
        using var expected = new SafetensorsFile(Path.Combine(Golden, "expected_bf16.safetensors"));
        using var actual = new Checkpoint(Target);
        Assert.Equal(expected.Entries.Keys.Order(StringComparer.Ordinal), actual.Names.Order(StringComparer.Ordinal));
        foreach (var (name, entry) in expected.Entries)
        {
            using var wanted = expected.Get(name);
            using var made = actual.Take(name, DType.BF16, entry.Shape);
            Assert.True(wanted.Span<ushort>().SequenceEqual(made.Span<ushort>()), name);
        }
    }

    [Fact]
    public void Everything_else_of_the_folder_comes_along()
    {
        var source = Source();
        Directory.CreateDirectory(Path.Combine(source, "assets"));
        File.WriteAllText(Path.Combine(source, "tokenizer.json"), "{}");
        File.WriteAllText(Path.Combine(source, "assets", "card.txt"), "card");
        Convert(source);
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(Target, "config.json")))!.AsObject();
        Assert.False(config.ContainsKey("quantization_config"));
        Assert.Equal("deepseek_v3", (string?)config["model_type"]);
        Assert.Equal("card", File.ReadAllText(Path.Combine(Target, "assets", "card.txt")));
        Assert.Equal(["assets", "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
            "tokenizer.json"], Directory.GetFileSystemEntries(Target).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal));
        var index = JsonNode.Parse(File.ReadAllText(Path.Combine(Target, "model.safetensors.index.json")))!;
        Assert.DoesNotContain(index["weight_map"]!.AsObject(), t => t.Key.EndsWith("_scale_inv", StringComparison.Ordinal));
        Assert.Equal(366784, (long)index["metadata"]!["total_size"]!);
    }

    [Fact]
    public void A_killed_conversion_goes_on_without_doing_a_shard_twice_and_in_bounded_memory()
    {
        var source = LowBitFolder.Large(_folder, shards: 10, rows: 2001, k: 4099);
        using (var kt = Kt.Start("convert", "fp8-to-bf16", source, Target))
        {
            kt.Until(() => Directory.Exists(Target) && Directory.GetFiles(Target, "*.safetensors").Length >= 2);
            kt.Kill();
            kt.End();
        }
        var mine = Path.Combine(Target, "model-00010-of-00010.safetensors.tmp");
        File.WriteAllText(mine, "a person's");
        var finished = Directory.GetFiles(Target, "*.safetensors").ToDictionary(f => f, File.GetLastWriteTimeUtc);
        Assert.InRange(finished.Count, 2, 9);
        Assert.False(File.Exists(Path.Combine(Target, "config.json"))); // not whole yet, and no loader takes it for whole
        Assert.Equal($"{Target}: a conversion into this folder is not finished; give the same `kt convert` again, and it goes on",
            Kt.Refuses("model", "inspect", Target));
        var (exit, output, errors) = Kt.Run("convert", "fp8-to-bf16", source, Target);
        Assert.True(exit == 0, errors);
        Assert.StartsWith($"10 shards, {finished.Count} of them finished before; ", output, StringComparison.Ordinal);
        foreach (var (file, time) in finished) Assert.Equal(time, File.GetLastWriteTimeUtc(file));
        Assert.Equal([mine], Directory.GetFiles(Target, "*.tmp"));
        Assert.Equal("a person's", File.ReadAllText(mine));
        Assert.Empty(Directory.GetFiles(Target, ".kt*"));
        // 164 MB of BF16 are written in all; the program itself is most of what it needs.
        Assert.InRange(Kt.PeakMegabytes(output), 20, 160);
        Assert.Equal($"{Target}: holds the whole converted model already; remove it to convert again", Kt.Refuses("convert", "fp8-to-bf16", source, Target));
        using var whole = new Checkpoint(Target);
        using var from = new Checkpoint(source);
        foreach (var name in whole.Names)
        {
            using var made = whole.Take(name, DType.BF16, 2001, 4099);
            using var decoded = from.Take(name, DType.BF16, 2001, 4099);
            Assert.True(made.Span<ushort>().SequenceEqual(decoded.Span<ushort>()), name);
        }
    }

    [Fact]
    public void No_page_of_the_source_stays_mapped_so_memory_does_not_grow_with_the_model()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "reads /proc/self/smaps");
        var source = Path.Combine(_folder.Path, "source");
        List<(string, Tensor)> tensors = [];
        for (var i = 0; i < 64; i++)
            tensors.AddRange([($"layers.{i}.weight", Tensor.Zeros(DType.F8E4M3, 256, 1024)), ($"layers.{i}.weight_scale_inv", Tensor.Zeros(DType.F32, 2, 8))]);
        SafetensorsWriter.Write(Path.Combine(source, "model.safetensors"), tensors);
        foreach (var (_, tensor) in tensors) tensor.Dispose();
        File.WriteAllText(Path.Combine(source, "config.json"),
            """{"quantization_config": {"fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}}""");
        using var conversion = new Fp8Conversion(source, Target);
        conversion.Run(cancel: TestContext.Current.CancellationToken);
        var lines = File.ReadAllLines("/proc/self/smaps");
        var at = Array.FindIndex(lines, l => l.EndsWith(Path.Combine(source, "model.safetensors"), StringComparison.Ordinal));
        Assert.True(at >= 0, "the source is mapped, that its headers may be read");
        var resident = lines.Skip(at).First(l => l.StartsWith("Rss:", StringComparison.Ordinal)).Split(' ', StringSplitOptions.RemoveEmptyEntries)[1];
        Assert.InRange(int.Parse(resident, System.Globalization.CultureInfo.InvariantCulture), 0, 256); // kB, of 16 MB with 64 scales among them
    }

    [Fact]
    public void A_disk_that_is_too_small_is_said_before_anything_is_written()
    {
        using var disk = new SmallDisk(1);
        var source = LowBitFolder.Large(_folder, shards: 2, rows: 300, k: 1000);
        var target = Path.Combine(disk.Path, "target");
        var error = Assert.Throws<IOException>(() => new Fp8Conversion(source, target));
        Assert.StartsWith($"{target}: not enough disk: 2.2 MB are needed", error.Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(target));
    }

    [Fact]
    public void A_disk_that_fills_on_the_way_leaves_whole_shards_only()
    {
        using var disk = new SmallDisk(6);
        var source = LowBitFolder.Large(_folder, shards: 4, rows: 300, k: 1000); // 2.4 MB and a reserve
        var target = Path.Combine(disk.Path, "target");
        using (var conversion = new Fp8Conversion(source, target))
        {
            File.WriteAllBytes(Path.Combine(disk.Path, "other.bin"), new byte[4_000_000]); // someone else needs the disk too
            Assert.ThrowsAny<IOException>(() => conversion.Run(cancel: TestContext.Current.CancellationToken));
        }
        Assert.Empty(Directory.GetFiles(target, "*.tmp"));
        File.Delete(Path.Combine(disk.Path, "other.bin"));
        using (var conversion = new Fp8Conversion(source, target))
        {
            Assert.InRange(conversion.Finished, 1, 3);
            conversion.Run(cancel: TestContext.Current.CancellationToken);
        }
        Assert.True(File.Exists(Path.Combine(target, "config.json")));
    }

    [Fact]
    public void A_stopped_conversion_is_not_continued_from_another_source()
    {
        var source = LowBitFolder.Large(_folder, shards: 2, rows: 10, k: 20);
        using (var conversion = new Fp8Conversion(source, Target))
        {
            using var stop = new CancellationTokenSource();
            Assert.Throws<OperationCanceledException>(() => conversion.Run(_ => stop.Cancel(), stop.Token));
        }
        File.SetLastWriteTimeUtc(Path.Combine(source, "model-00001.safetensors"), DateTime.UnixEpoch);
        Assert.StartsWith($"{Target}: holds the beginning of a conversion of another source",
            Assert.Throws<IOException>(() => new Fp8Conversion(source, Target)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_cannot_be_converted_is_named()
    {
        var source = Source();
        Assert.Contains("must not lie in the source folder",
            Assert.Throws<ArgumentException>(() => new Fp8Conversion(source, Path.Combine(source, "x"))).Message, StringComparison.Ordinal);
        Directory.CreateDirectory(Target);
        File.WriteAllText(Path.Combine(Target, "notes.txt"), "mine");
        Assert.Equal($"{Target}: is not empty (there is notes.txt); choose a new folder",
            Assert.Throws<IOException>(() => new Fp8Conversion(source, Target)).Message);
        File.Delete(Path.Combine(Target, "notes.txt"));
        var index = Path.Combine(source, "model.safetensors.index.json");
        var map = JsonNode.Parse(File.ReadAllText(index))!;
        map["weight_map"]!.AsObject().Remove("model.layers.1.mlp.experts.0.up_proj.weight_scale_inv");
        File.WriteAllText(index, map.ToJsonString());
        Assert.Equal($"{Path.Combine(source, "model-00001-of-00002.safetensors")}: tensor 'model.layers.1.mlp.experts.0.up_proj.weight' is stored as fp8, but "
            + "its scales 'model.layers.1.mlp.experts.0.up_proj.weight_scale_inv' are in no shard",
            Assert.Throws<InvalidDataException>(() => new Fp8Conversion(source, Target)).Message);
        LowBitFolder.Edit(source, c => c.Remove("quantization_config"));
        Assert.Contains("there is nothing to convert", Assert.Throws<InvalidDataException>(() => new Fp8Conversion(source, Target)).Message,
            StringComparison.Ordinal);
    }

    /// <summary>A downloaded index may name what it likes; nothing is read or written beside the two folders.</summary>
    [Theory]
    [InlineData("../evil.safetensors")]
    [InlineData("/SOURCE/model-00001-of-00002.safetensors")]
    public void A_shard_stays_in_its_folder(string name)
    {
        var source = Source();
        var first = Path.Combine(source, "model-00001-of-00002.safetensors");
        File.Copy(first, Path.Combine(_folder.Path, "evil.safetensors"));
        var index = Path.Combine(source, "model.safetensors.index.json");
        File.WriteAllText(index, File.ReadAllText(index).Replace("model-00001-of-00002.safetensors", name.Replace("/SOURCE", source, StringComparison.Ordinal),
            StringComparison.Ordinal));
        var before = File.ReadAllBytes(first);
        Assert.Contains("must be the name of a file below", Assert.Throws<InvalidDataException>(() => new Fp8Conversion(source, Target)).Message,
            StringComparison.Ordinal);
        Assert.Equal(before, File.ReadAllBytes(first));
        Assert.False(Directory.Exists(Target));
    }

    [Fact]
    public void Links_out_of_the_folder_pipes_and_circles_are_left_out_and_said()
    {
        var source = Source();
        Directory.CreateDirectory(Path.Combine(source, "assets"));
        File.WriteAllText(Path.Combine(source, "assets", "card.txt"), "card");
        File.CreateSymbolicLink(Path.Combine(source, "inner.txt"), "assets/card.txt");
        File.CreateSymbolicLink(Path.Combine(source, "shadow.txt"), "/etc/passwd");
        File.CreateSymbolicLink(Path.Combine(source, "gone.txt"), "nothing");
        Directory.CreateSymbolicLink(Path.Combine(source, "assets", "circle"), "..");
        Directory.CreateSymbolicLink(Path.Combine(source, "etc"), "/etc");
        using (var made = System.Diagnostics.Process.Start("mkfifo", Path.Combine(source, "pipe"))) made.WaitForExit();
        using var conversion = new Fp8Conversion(source, Target);
        Assert.Equal(
            [
                $"{source}: not copied: assets/circle: a link to the folder ..", $"{source}: not copied: etc: a link to the folder /etc",
                    $"{source}: not copied: gone.txt: a link to nothing, which is not there",
                $"{source}: not copied: pipe: a pipe, a device or a socket", $"{source}: not copied: shadow.txt: a link to /etc/passwd, outside this folder",
            ], conversion.Notes);
        conversion.Run(cancel: TestContext.Current.CancellationToken);
        Assert.Equal(["assets/card.txt", "inner.txt"], Directory.EnumerateFiles(Target, "*.txt", SearchOption.AllDirectories).Select(f =>
            Path.GetRelativePath(Target, f)).Order(StringComparer.Ordinal));
        Assert.Equal("card", File.ReadAllText(Path.Combine(Target, "inner.txt")));
        Assert.Null(new FileInfo(Path.Combine(Target, "inner.txt")).LinkTarget);
    }

    [Fact]
    public void A_snapshot_of_Hugging_Face_s_cache_becomes_a_folder_of_files()
    {
        var source = Source();
        File.WriteAllText(Path.Combine(source, "tokenizer.json"), "{}");
        var (blobs, snapshot) = (Path.Combine(_folder.Path, "cache", "blobs"), Path.Combine(_folder.Path, "cache", "snapshots", "abc"));
        Directory.CreateDirectory(blobs);
        Directory.CreateDirectory(snapshot);
        foreach (var file in Directory.GetFiles(source))
        {
            File.Move(file, Path.Combine(blobs, "hash-of-" + Path.GetFileName(file)));
            File.CreateSymbolicLink(Path.Combine(snapshot, Path.GetFileName(file)), "../../blobs/hash-of-" + Path.GetFileName(file));
        }
        Convert(snapshot);
        Assert.Equal(["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"],
            Directory.GetFileSystemEntries(Target).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal));
        Assert.All(Directory.GetFiles(Target), file => Assert.Null(new FileInfo(file).LinkTarget));
    }

    private string Source()
    {
        var source = Path.Combine(_folder.Path, "source");
        Checkout.Copy(Path.Combine(Golden, "model"), source);
        return source;
    }

    private void Convert(string source)
    {
        using var conversion = new Fp8Conversion(source, Target);
        conversion.Run(cancel: TestContext.Current.CancellationToken);
    }
}
