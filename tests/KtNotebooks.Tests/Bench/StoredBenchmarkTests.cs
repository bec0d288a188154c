using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Bench;

/// <summary>Stored results come back as they were written, whichever way enums were written.</summary>
public sealed class StoredBenchmarkTests : IDisposable
{
    private static readonly TrainingBenchmarkResult Result = new(
        new TrainingBenchmarkSettings("deepseek-v3", 4, 8192, 512, 8, ExecutorKind.Streamed, StorageFormat.Fp8, Device.Cuda(1), 3000L << 20, 0, true, false,
            4096, 3),
        "card", 100, 10, 1000, 990, 1010, new Dictionary<string, double> { ["experts"] = 900 }, 800, 44_000_000_000, 7, 6, 5, [1.5, 1.25]);

    private readonly string _folder = Directory.CreateTempSubdirectory("kt-stored-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_the_newest_date_holds_is_read(bool words)
    {
        Write("2026-01-01", "old", Json(words));
        Write("2026-10-02", "streamed", Json(words));
        Directory.CreateDirectory(Path.Combine(_folder, "2026-12-31"));
        var stored = StoredBenchmarks.Newest(_folder);
        Assert.Equal(["streamed"], stored.Runs.Select(r => r.Name));
        var read = stored["streamed"];
        Assert.Equal(Result.Settings, read.Settings);
        Assert.Equal((8192.0, 55.0, 900.0), (read.TokensPerSecond, read.CopyGbPerSecond, read.Parts["experts"]));
        Assert.Equal(Result.Losses, read.Losses);
        Assert.Contains("'other'", Assert.Throws<ArgumentException>(() => stored["other"]).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_command_says_every_option()
    {
        Assert.Equal("./kt bench train --shape deepseek-v3 --layers 4 --tokens 8192 --seq 512 --rank 8 --experts streamed --format fp8 --device cuda:1 "
            + "--slots-mb 3000 --saved-mb 0 --chunk 4096 --steps 3 --moments-on-host --json",
            new StoredBenchmark("x", Result).Command);
        Assert.EndsWith(" --steps 3 --moments-on-host --cards 2 --contiguous --parts 4 --json",
            new StoredBenchmark("x", Result with { Settings = Result.Settings with { Gpus = 2, Contiguous = true, Parts = 4 } }).Command,
            StringComparison.Ordinal);
        Assert.EndsWith(" --weights disk --disk-folder DIR --disk-layers 4 --warm-up 0 --json",
            new StoredBenchmark("x", Result with { Settings = Result.Settings with { DiskFolder = "DIR", DiskLayers = 4, WarmUp = 0 } }).Command,
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_ceiling_is_the_rate_in_its_line()
    {
        Write("2026-10-02", "a", Json(false));
        File.WriteAllText(Path.Combine(_folder, "2026-10-02", StoredBenchmarks.MachineFile),
            "driver 580\n  pinned host memory to the card            55.4 GB/s     (55.4 to 55.5)\n  BF16 product 8192³ on the card (cuBLASLt)   771.6 "
                + "TFLOP/s  (758.3 to 784.6)\n");
        var stored = StoredBenchmarks.Newest(_folder);
        Assert.Equal((55.4, 771.6), (stored.Ceiling("pinned host memory to the card"), stored.Ceiling("BF16 product 8192³ on the card")));
        Assert.Throws<InvalidDataException>(() => stored.Ceiling("warp drive"));
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("{ \"Settings\": ")]
    [InlineData("[]")]
    [InlineData("null")]
    public void A_file_that_is_no_result_is_named(string text)
    {
        Write("2026-10-02", "bad", text);
        Assert.Contains("bad.json", Assert.Throws<InvalidDataException>(() => StoredBenchmarks.Newest(_folder)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Nothing_stored_is_said() =>
        Assert.Contains("kt bench train", Assert.Throws<DirectoryNotFoundException>(() => StoredBenchmarks.Newest(_folder)).Message, StringComparison.Ordinal);

    private static string Json(bool words)
    {
        var json = JsonSerializer.SerializeToNode(Result)!;
        if (words) (json["Settings"]!["Executor"], json["Settings"]!["Format"], json["Settings"]!["Device"]!["Kind"]) = (JsonValue.Create("Streamed"),
            JsonValue.Create("Fp8"), JsonValue.Create("Cuda"));
        return json.ToJsonString();
    }

    private void Write(string date, string name, string text) =>
        File.WriteAllText(Path.Combine(Directory.CreateDirectory(Path.Combine(_folder, date)).FullName, name + ".json"), text);
}
