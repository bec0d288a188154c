using KtNotebooks.Generation;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;

using Xunit;

namespace KtNotebooks.Tests.Generation;

[Collection("cpu variant")]
public class BatchGeneratorTests
{
    private static readonly Sampling Drawn = new(24, Temperature: 1.5, TopP: 1, TopK: 0, Seed: 3);

    /// <summary>Prompts of 1 to 90 tokens.</summary>
    private static readonly GenerationRequest[] Requests = [.. Enumerable.Range(0, 21)
        .Select(r => new GenerationRequest(r, [.. Enumerable.Range(0, 1 + (r * 37 % 90)).Select(i => (i * 31 + r * 7) % Tiny.Vocabulary)]))];

    /// <summary>A token that ends about one row in three early.</summary>
    private static readonly HashSet<int> Stops = [.. Enumerable.Range(0, 9).Select(i => i * 50)];

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(false, true)]
    [InlineData(false, false)]
    [InlineData(true, true)]
    public void Rows_do_not_depend_on_how_many_are_in_work(bool bf16, bool drawn)
    {
        using var model = Tiny.WithAdapter(bf16 ? DType.BF16 : DType.F32);
        var sampling = drawn ? Drawn : Sampling.Greedy(24);
        var alone = Rows(new BatchGenerator(model, sampling, Stops, slots: 1));
        Assert.Equal(Requests.Length, alone.Count);
        if (drawn) Assert.Contains(alone.Values, ids => ids.Length < 24);
        Assert.Contains(alone.Values, ids => ids.Length == 24);
        foreach (var slots in new[] { 2, 5, 64 }) Same(alone, Rows(new BatchGenerator(model, sampling, Stops, slots)));
        Same(alone, Rows(new BatchGenerator(model, sampling, Stops, slots: 8, prefillRows: 1)));
        Same(alone.Where(r => r.Key > 10).ToDictionary(), Rows(new BatchGenerator(model, sampling, Stops, 4), Requests[11..]));
    }

    [Fact]
    public void Greedy_rows_are_those_of_the_plain_generator()
    {
        using var model = Tiny.WithAdapter();
        var rows = Rows(new BatchGenerator(model, Sampling.Greedy(12), Stops, slots: 6));
        foreach (var (row, prompt) in Requests)
            Assert.Equal(new Generator(model).Generate(prompt, Sampling.Greedy(12), (IReadOnlySet<int>)Stops, Stop), rows[row]);
    }

    [Fact]
    public void A_place_that_becomes_free_is_taken_at_once()
    {
        using var model = Tiny.WithAdapter();
        // With two places the long row and the short ones run beside each other: the short ones, one after another, are all done before it.
        GenerationRequest[] requests = [new(0, [1, 2, 3]), .. Enumerable.Range(1, 5).Select(r => new GenerationRequest(r, [.. Enumerable.Repeat(r, 252)]))];
        int[] order = [.. new BatchGenerator(model, Sampling.Greedy(200), new HashSet<int>(), slots: 2).Run(requests, Stop).Select(r => r.Row)];
        Assert.Equal([1, 2, 3, 4, 5, 0], order);
    }

    [Fact]
    public void Finished_and_cancelled_runs_leave_nothing()
    {
        using var model = Tiny.WithAdapter();
        _ = Rows(new BatchGenerator(model, Drawn, Stops, slots: 4));
        var before = Tiny.Alive();
        using var stop = new CancellationTokenSource();
        Assert.Throws<OperationCanceledException>(() =>
        {
            foreach (var _ in new BatchGenerator(model, Drawn, Stops, slots: 4).Run(Requests, stop.Token)) stop.Cancel();
        });
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
    }

    [Fact]
    public void A_prompt_without_room_is_named()
    {
        using var model = Tiny.Build();
        var generator = new BatchGenerator(model, Drawn, Stops, slots: 2);
        Assert.Equal("row 2: the prompt has no tokens", Assert.Throws<ArgumentException>(() => generator.Run([new(0, [1]), new(1, [])], Stop)).Message);
        Assert.StartsWith("row 1: the prompt has 256 tokens; the model was made for 256 positions",
            Assert.Throws<ArgumentException>(() => generator.Run([new(0, new int[256])], Stop)).Message, StringComparison.Ordinal);
    }

    private static Dictionary<int, int[]> Rows(BatchGenerator generator, GenerationRequest[]? requests = null) => generator.Run(requests ?? Requests, Stop)
        .ToDictionary(r => r.Row, r => r.Ids);

    private static void Same(Dictionary<int, int[]> expected, Dictionary<int, int[]> actual)
    {
        Assert.Equal(expected.Keys.Order(), actual.Keys.Order());
        foreach (var (row, ids) in expected) Assert.Equal(ids, actual[row]);
    }
}
