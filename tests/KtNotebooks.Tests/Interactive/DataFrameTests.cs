using KtNotebooks.Data;
using KtNotebooks.Evaluation;
using KtNotebooks.Interactive;
using KtNotebooks.Planning;
using KtNotebooks.Training;

using Microsoft.Data.Analysis;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

/// <summary>What the engine and the views give as DataFrames: the numbers, in columns of the right kind.</summary>
public sealed class DataFrameTests
{
    [Fact]
    public void A_data_set_has_a_row_for_each_of_its_own()
    {
        var rows = DatasetLoader.Load(Path.Combine(Checkout.Root, "datasets"), "neko_qa_test");
        var frame = rows.ToDataFrame();
        Assert.Equal(rows.Count, frame.Rows.Count);
        Assert.Equal(rows[3].Answer, frame["answer"][3]);
        Assert.Equal(1L, Assert.IsType<Int64DataFrameColumn>(frame["turns"])[0]);
    }

    [Fact]
    public void A_log_is_read_event_by_event()
    {
        var folder = Directory.CreateTempSubdirectory("kt-frame-tests-");
        File.WriteAllText(Path.Combine(folder.FullName, "trainer_log.jsonl"),
            "{\"current_steps\": 1, \"loss\": 2.5, \"elapsed_time\": \"0:00:01\"}\n{\"current_steps\": 2, \"eval_loss\": 2}\n");
        var frame = DataFrames.ReadLog(folder.FullName);
        Assert.Equal(["current_steps", "loss", "elapsed_time", "eval_loss"], frame.Columns.Select(c => c.Name));
        Assert.Equal((2L, 2.5, null, 2L), (frame["current_steps"][1], frame["loss"][0], frame["loss"][1], frame["eval_loss"][1]));
        File.WriteAllText(Path.Combine(folder.FullName, "trainer_log.jsonl"), "{\"current_steps\": 1}\nnonsense\n");
        var error = Assert.Throws<InvalidDataException>(() => DataFrames.ReadLog(folder.FullName));
        Assert.Contains("trainer_log.jsonl:2", error.Message, StringComparison.Ordinal);
        folder.Delete(recursive: true);
    }

    [Fact]
    public void Steps_bring_their_metrics()
    {
        var step = new StepReport(1, 2, 0.5, 3.25, 1e-4, 0.7, 128, 1000, TimeSpan.FromSeconds(2), TimeSpan.Zero)
        {
            Metrics = new Dictionary<string, double> { ["rewards/margins"] = 0.25 },
        };
        var frame = new[] { step, step with { Step = 2, Loss = 3 } }.ToDataFrame();
        Assert.Equal((2L, 3.0, 0.25), (frame["step"][1], frame["loss"][1], frame["rewards/margins"][0]));
    }

    [Fact]
    public void Scores_have_their_intervals_and_gaps()
    {
        var frame = ScoredRun.PublishedByKTransformers.ToDataFrame();
        Assert.Equal(ScoredRun.PublishedByKTransformers.Count, frame.Rows.Count);
        Assert.Equal((20.66, null), (frame["kt-bleu-1"][0], frame["accuracy-strict"][0]));
        Assert.True((bool)frame["published"][0]);
    }

    [Fact]
    public void A_plan_sums_up_to_its_model()
    {
        var plan = MemoryPlan.Open(Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"));
        Assert.Equal(plan.Parameters, (long)plan.ToDataFrame()["parameters"].Sum());
    }

    [Fact]
    public void Tables_go_there_and_back()
    {
        var frame = new Table("name", "count", "share", "empty").Row("a", 3, 0.5).Row("b", 4L, 1).ToDataFrame();
        Assert.Equal((7L, 1.0, null), ((long)frame["count"].Sum(), frame["share"][1], frame["empty"][0]));
        Assert.Contains("2 rows, 4 columns", frame.AsTable().ToText(), StringComparison.Ordinal);
        Assert.Contains("the first 1 of 2 rows", frame.AsTable(rows: 1).ToMarkdown(), StringComparison.Ordinal);
    }
}
