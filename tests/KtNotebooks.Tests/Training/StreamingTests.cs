using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>streaming: true. All rows of an epoch once, in an order that the seed alone decides; a stopped run goes on to the same bytes.</summary>
[Collection("cpu variant")]
public sealed class StreamingTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(5, 1)]
    [InlineData(100, 1)]
    [InlineData(5, null)]
    public void An_epoch_holds_every_row_once_and_the_next_another_order(int buffer, int? seed)
    {
        var settings = new DataSettings
        {
            Folder = Path.Combine(_place.Root, "data"),
            Names = "good",
            Template = Templates.Get("deepseek"),
            PackingHorizon = 7,
        };
        RowStream Make() => new(settings, SftEncoder.Of(settings, Samples.Small), buffer, seed);
        string[] rows = [.. Make().Rows().Take(48).Select(r => r.Source)];
        Assert.Equal(24, rows[..24].Distinct().Count());
        Assert.Equal(rows[..24].Order(), rows[24..].Order());
        Assert.Equal(seed is null, rows.Take(24).SequenceEqual(rows.Skip(24)));
        Assert.Equal(rows, Make().Rows().Take(48).Select(r => r.Source));
    }

    [Fact]
    public void A_stopped_run_goes_on_to_the_same_bytes()
    {
        Run(_place.Output, 0);
        var stopped = _place.Output + "-stopped";
        Run(stopped, stopAt: 2);
        Run(stopped, 0);
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, "adapter_model.safetensors")),
            File.ReadAllBytes(Path.Combine(stopped, "adapter_model.safetensors")));
    }

    /// <summary>Chunks of three leave one row over, of every set and of the epoch: it is compared with the row before it.</summary>
    [Theory]
    [InlineData(7)]
    [InlineData(1)]
    public void A_stream_of_wanted_and_unwanted_answers_pairs_every_row(int rows)
    {
        var folder = Directory.CreateDirectory(Path.Combine(_place.Root, "likes")).FullName;
        File.WriteAllLines(Path.Combine(folder, "likes.csv"), ["question,answer,label", .. Enumerable.Range(0, rows).Select(i => $"hello,cat {i},true")]);
        File.WriteAllText(Path.Combine(folder, "dataset_info.json"),
            """{"likes": {"file_name": "likes.csv", "columns": {"prompt": "question", "response": "answer", "kto_tag": "label"}}}""");
        var settings = new DataSettings { Folder = folder, Names = "likes", Template = Templates.Get("deepseek"), Cutoff = 60, PackingHorizon = 3 };
        var stream = new RowStream(settings, new LikingEncoder(settings, Samples.Small), 5, null);
        if (rows == 1)
        {
            Assert.Contains("is the only row", Assert.Throws<InvalidDataException>(() => stream.Rows().First()).Message, StringComparison.Ordinal);
            return;
        }
        var epoch = stream.Rows().Take(rows).ToArray();
        Assert.Equal(rows, epoch.Select(r => r.Source).Distinct().Count());
        Assert.All(epoch, row => Assert.Equal(2, row.Starts.Length));
        var last = epoch[^1];
        Assert.Contains("cat 5", Samples.Small.Decode(last.Ids.AsSpan(last.Starts[1])), StringComparison.Ordinal);
        Assert.Contains(stream.Remarks, r => r.Contains("every answer is a wanted one", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("max_steps=-1", "'max_steps' must be the number of steps with streaming: true")]
    [InlineData("val_size=3", "'val_size' must be 0 with streaming: true")]
    [InlineData("max_samples=3", "'max_samples' must be left out with streaming: true")]
    public void What_a_stream_cannot_have_is_refused(string pair, string message) => Assert.Contains(message,
        Assert.Throws<ArgumentException>(() => FineTuneKeys.Read(Settings.Read([.. Arguments(_place.Output), pair]))).Message, StringComparison.Ordinal);

    private string[] Arguments(string output) =>
        [.. _place.Train("streaming=true", "buffer_size=6", "max_steps=5", "eval_dataset=good", $"output_dir={output}", "plot_loss=false")[1..]];

    private void Run(string output, int stopAt)
    {
        using var run = FineTuneRun.Open(Arguments(output));
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(Stop);
        run.Trainer.OnStep += step =>
        {
            if (step.Step == stopAt) stop.Cancel();
        };
        Assert.Equal(stopAt > 0, run.Run(stop.Token).Interrupted);
    }
}
