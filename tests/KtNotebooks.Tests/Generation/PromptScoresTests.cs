using KtNotebooks.Generation;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>What is told of a prompt is what drawing its tokens one by one would have told, wherever it is cut and whatever is cached.</summary>
[Collection(Alone.Name)]
public class PromptScoresTests
{
    private static readonly int[] Prompt = [.. Enumerable.Range(0, 150).Select(i => i * i * 7 % Tiny.Vocabulary)];

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.BF16)]
    public void A_prompt_is_scored_as_if_its_tokens_had_been_drawn(DType type)
    {
        using var model = Tiny.WithAdapter(type);
        var forced = Forced(model);
        foreach (var settings in (SchedulerSettings[])[new(), new() { Slots = 4, PromptRows = 7, CutPrompts = true },
            new() { Slots = 2, CacheTokens = 256, PromptRows = 7, CutPrompts = true }])
        {
            using var scheduler = new Scheduler(model, settings: settings);
            // Others that begin alike, beside it and after it, and an older one that takes its pages away in the middle of the prompt.
            var request = new GenerationRequest(Prompt, Sampling.Greedy(40)) { PromptLogprobs = 3 };
            GenerationRequest[] all = [new([.. Enumerable.Range(3, 50)], Sampling.Greedy(100)), request, new(Prompt, Sampling.Greedy(9)),
                request with { PromptLogprobs = 0 }, request with { Adapter = "base" }, request with { PromptOnly = true }];
            for (var again = 0; again < 2; again++)
            {
                var answers = scheduler.ReadAll(all, Stop).ToDictionary(a => a.Row, a => a.Answer);
                Assert.Empty(answers[2].PromptTokens);
                Same(forced, answers[1].PromptTokens);
                Same([.. forced.Select(t => t with { Likeliest = null })], answers[3].PromptTokens);
                Assert.NotEqual(forced[9].Logprob, answers[4].PromptTokens[9].Logprob);
                Same(forced, answers[5].PromptTokens);
                Assert.Equal((FinishReason.Length, 0, 0), (answers[5].Reason, answers[5].Ids.Length, answers[5].CachedTokens));
                Assert.Equal(answers[1].Ids[..9], answers[2].Ids);
            }
            if (settings.CacheTokens is not null) Assert.True(scheduler.Preemptions > 0);
            Assert.Equal(0, scheduler.Pages.Used);
        }
    }

    [Fact]
    public void Logits_are_made_for_some_rows_at_a_time_and_rows_told_already_are_passed_over()
    {
        List<(int At, int Rows)> made = [];
        var scores = new PromptScores([3, 1, 0, 2, 1, 3, 0], likeliest: 1);
        Tensor Logits(int at, int rows)
        {
            made.Add((at, rows));
            return Tensor.From([.. Enumerable.Range(at, rows).SelectMany(r => (float[])[r, 0, 0, 0, 99])], [rows, 5]);
        }
        scores.Read(0, 4, vocabulary: 1 << 23, used: 4, Logits);
        Assert.False(scores.IsWhole);
        scores.Read(2, 5, vocabulary: 1 << 23, used: 4, Logits);
        Assert.True(scores.IsWhole);
        Assert.Equal([(0, 2), (2, 2), (4, 2)], made);
        Assert.Null(scores.Told[0].Logprob);
        for (var r = 0; r < 6; r++)
            Assert.Equal((scores.Told[r + 1].Id == 0 ? r : 0) - Math.Log(Math.Exp(r) + 3), scores.Told[r + 1].Logprob!.Value, 1e-5);
        Assert.All(scores.Told.Skip(1), t => Assert.Equal(0, Assert.Single(t.Likeliest!).Id));
    }

    [Fact]
    public void A_prompt_may_fill_the_model_where_nothing_is_drawn()
    {
        using var model = Tiny.Build();
        using var scheduler = new Scheduler(model);
        var whole = new GenerationRequest([.. Enumerable.Range(0, 256)], Sampling.Greedy(1)) { PromptLogprobs = 0, PromptOnly = true };
        var (_, answer) = Assert.Single(scheduler.ReadAll([whole], Stop));
        Assert.Equal(256, answer.PromptTokens.Count);
        Assert.Throws<ArgumentException>(() => scheduler.Add(whole with { PromptOnly = false }));
        var negative = Assert.Throws<ArgumentException>(() => scheduler.Add(whole with { PromptLogprobs = -1 }));
        Assert.Equal("logprobs must not be negative, but is -1", negative.Message);
    }

    [Fact]
    public void The_stop_token_is_told_with_its_logprob()
    {
        using var model = Tiny.Build();
        using var scheduler = new Scheduler(model);
        var bias = new Dictionary<int, float> { [8] = 1e6f };
        var request = new GenerationRequest([5, 6], Sampling.Greedy(9)) { StopIds = new HashSet<int> { 8 }, LogitBias = bias };
        var answers = scheduler.ReadAll([request, request with { Logprobs = 2 }], Stop).ToDictionary(a => a.Row, a => a.Answer);
        Assert.Null(answers[0].StopToken);
        var stop = answers[1].StopToken!;
        Assert.Equal((8, 2), (stop.Id, stop.Likeliest!.Count));
        Assert.True(stop.Logprob < stop.Likeliest[0].Logprob);
        Assert.Empty(answers[1].Ids);
    }

    /// <summary>Each token of the prompt drawn after those before it, because a bias leaves no other choice; log-probabilities are told before it.</summary>
    private static List<GeneratedToken> Forced(CausalLm model)
    {
        List<GeneratedToken> told = [new(Prompt[0], "")];
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { IdleTokens = 0 });
        for (var i = 1; i < Prompt.Length; i++)
        {
            var bias = new Dictionary<int, float> { [Prompt[i]] = 1e6f };
            var completion = scheduler.Add(new GenerationRequest(Prompt[..i], Sampling.Greedy(1)) { Logprobs = 3, LogitBias = bias });
            while (scheduler.Step()) { }
            Assert.True(completion.TryRead(out var token));
            told.Add(token);
        }
        return told;
    }

    private static void Same(IReadOnlyList<GeneratedToken> expected, IReadOnlyList<GeneratedToken> actual)
    {
        Assert.Equal(expected.Select(t => (t.Id, t.Logprob)), actual.Select(t => (t.Id, t.Logprob)));
        Assert.Equal(expected.SelectMany(t => t.Likeliest ?? []), actual.SelectMany(t => t.Likeliest ?? []));
    }
}
