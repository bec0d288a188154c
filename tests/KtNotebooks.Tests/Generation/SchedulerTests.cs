using KtNotebooks.Experts;
using KtNotebooks.Generation;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>A request becomes what it becomes alone, bit for bit, whatever runs beside it, and pages are never lost.</summary>
[Collection(Alone.Name)]
public class SchedulerTests
{
    private static readonly Sampling Drawn = new(24, Temperature: 1.5, TopP: 1, TopK: 0, Seed: 3);

    /// <summary>A token that ends about one row in three early.</summary>
    private static readonly HashSet<int> Stops = [.. Enumerable.Range(0, 9).Select(i => i * 50)];

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(DType.F32, true)]
    [InlineData(DType.F32, false)]
    [InlineData(DType.BF16, true)]
    public void Requests_do_not_depend_on_what_runs_beside_them(DType type, bool drawn)
    {
        using var model = Tiny.WithAdapter(type);
        var requests = Requests(drawn ? Drawn : Sampling.Greedy(24));
        // Each alone, in a scheduler of its own: nothing is reused and nothing runs beside it.
        var alone = requests.Select(r => Scheduler.Generate(model, r, rowsAlike: true, cancel: Stop).ToArray()).ToArray();
        if (drawn) Assert.Contains(alone, ids => ids.Length < 24);
        Assert.Contains(alone, ids => ids.Length == 24);
        foreach (var settings in (SchedulerSettings[])[new(), new() { Slots = 2, IdleTokens = 0 }, new() { Slots = 5 }, new() { Slots = 64 },
            new() { Slots = 8, PromptRows = 1 }, new() { Slots = 8, PromptRows = 7, CutPrompts = true }, new() { Slots = 8, CacheTokens = 320 }])
        {
            using var scheduler = new Scheduler(model, settings: settings);
            for (var again = 0; again < 2; again++) // the second time all prompts are in the cache, if it is large enough
            {
                var answers = scheduler.ReadAll(requests, Stop).ToDictionary(a => a.Row, a => a.Answer.Ids);
                Assert.Equal(requests.Length, answers.Count);
                for (var row = 0; row < requests.Length; row++) Assert.Equal(alone[row], answers[row]);
            }
            Assert.Equal(0, scheduler.Pages.Used);
            if (settings.CacheTokens is not null) Assert.True(scheduler.Preemptions > 0);
            Assert.Equal(2 * alone.Sum(ids => ids.Length), scheduler.Tokens);
        }
    }

    [Fact]
    public void A_slot_that_becomes_free_is_taken_at_once()
    {
        using var model = Tiny.WithAdapter();
        // With two slots the long row and the short ones run beside each other: the short ones, one after another, are all done before it.
        GenerationRequest[] requests = [new([1, 2, 3], Sampling.Greedy(200)),
            .. Enumerable.Range(1, 5).Select(r => new GenerationRequest([.. Enumerable.Repeat(r, 252)], Sampling.Greedy(200)))];
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 2 });
        Assert.Equal([1, 2, 3, 4, 5, 0], scheduler.ReadAll(requests, Stop).Select(r => r.Row));
    }

    /// <summary>Base, an attached adapter and two named ones, of other ranks, in one pass.</summary>
    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.BF16)]
    public void Adapters_share_a_pass(DType type)
    {
        using var model = Tiny.WithAdapter(type);
        Name(model, "a", rank: 3, seed: 5);
        Name(model, "b", rank: 2, seed: 6);
        string?[] names = ["base", "a", null, "b"];
        GenerationRequest[] requests = [.. Requests(Drawn).Select((r, i) => r with { Adapter = names[i % 4], StopIds = new HashSet<int>() })];
        var alone = requests.Select(r => Scheduler.Generate(model, r, rowsAlike: true, cancel: Stop).ToArray()).ToArray();
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 12 });
        foreach (var (row, answer) in scheduler.ReadAll(requests, Stop)) Assert.Equal(alone[row], answer.Ids);
        // One prompt with each: all differ, so each adapter acts, and none finds what another has left in the cache.
        var same = scheduler.ReadAll([.. names.Select(n => new GenerationRequest([.. Enumerable.Range(1, 70)], Sampling.Greedy(16)) { Adapter = n })], Stop)
            .ToDictionary(a => a.Row, a => a.Answer);
        Assert.Equal(4, same.Values.Select(a => string.Join(',', a.Ids)).Distinct().Count());
        Assert.All(same.Values, a => Assert.Equal(0, a.CachedTokens));
        Assert.Equal("no adapter is named 'c'; there are base, a, b",
            Assert.Throws<ArgumentException>(() => scheduler.Add(new GenerationRequest([1], Drawn) { Adapter = "c" })).Message);
    }

    [Fact]
    public void A_second_turn_computes_its_new_tokens_alone()
    {
        using var model = Tiny.WithAdapter();
        using var scheduler = new Scheduler(model);
        int[] prompt = [.. Enumerable.Range(0, 100)];
        var first = Run(scheduler, new GenerationRequest(prompt, Drawn));
        // Every token but the last drawn, which nobody has looked at, was a row.
        Assert.Equal(prompt.Length + first.Ids.Length - 1, scheduler.Rows);
        var before = scheduler.Rows;
        int[] second = [.. prompt, .. first.Ids, 7, 8, 9];
        var request = new GenerationRequest(second, Drawn) { Logprobs = 3 };
        var reused = Run(scheduler, request);
        Assert.Equal(second.Length - 4, reused.CachedTokens);
        Assert.Equal(4 + reused.Ids.Length - 1, scheduler.Rows - before);
        using var fresh = new Scheduler(model);
        var whole = Run(fresh, request);
        Assert.Equal(0, whole.CachedTokens);
        Assert.Equal(Tokens(whole), Tokens(reused)); // the log-probabilities too, bit for bit
    }

    [Fact]
    public void Changed_weights_make_the_cache_forget()
    {
        using var model = Tiny.WithAdapter();
        using var scheduler = new Scheduler(model);
        var request = new GenerationRequest([.. Enumerable.Range(0, 100)], Drawn);
        _ = Run(scheduler, request);
        Assert.Equal(99, Run(scheduler, request).CachedTokens);
        foreach (var linear in model.All().OfType<KtNotebooks.Nn.Linear>().ToArray())
        {
            linear.Adapter?.Dispose();
            linear.Adapter = null;
        }
        var changed = Run(scheduler, request);
        Assert.Equal(0, changed.CachedTokens);
        Assert.Equal(Scheduler.Generate(model, request, rowsAlike: true, cancel: Stop), changed.Ids);
    }

    [Fact]
    public void Several_answers_to_one_prompt_compute_it_once()
    {
        using var model = Tiny.WithAdapter();
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 8 });
        var answers = scheduler.Add(new GenerationRequest([.. Enumerable.Range(0, 150)], Drawn), n: 5);
        while (scheduler.Step()) { }
        Assert.Equal(5, answers.Select(a => string.Join(',', a.Ids)).Distinct().Count());
        Assert.Equal([0, 149, 149, 149, 149], answers.Select(a => a.CachedTokens));
        Assert.Equal(150 + 4 + answers.Sum(a => a.Ids.Length - 1), scheduler.Rows);
        for (var i = 0; i < 5; i++)
        {
            var request = answers[0].Request with { Sampling = i == 0 ? Drawn : Drawn.Of(i) };
            Assert.Equal(Scheduler.Generate(model, request, rowsAlike: true, cancel: Stop), answers[i].Ids);
        }
    }

    [Fact]
    public void Cancelled_requests_give_their_pages_back()
    {
        using var model = Tiny.WithAdapter();
        var before = Tiny.Alive();
        using (var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 3, IdleTokens = 0, Waiting = 6 }))
        {
            Completion[] all = [.. Enumerable.Range(0, 6).Select(i => scheduler.Add(new GenerationRequest([i, 1, 2], Sampling.Greedy(50))))];
            Assert.Equal("6 requests wait already; no more are taken",
                Assert.Throws<InvalidOperationException>(() => scheduler.Add(new GenerationRequest([1], Drawn))).Message);
            for (var i = 0; i < 4; i++) Assert.True(scheduler.Step());
            Assert.Equal((3, 3, 3), (scheduler.Running, scheduler.Waiting, scheduler.Pages.Used));
            Thread other = new(() => all[1].Cancel());
            other.Start();
            other.Join();
            all[4].Cancel();
            scheduler.Step();
            Assert.Equal((FinishReason.Cancelled, FinishReason.Cancelled), (all[1].Reason, all[4].Reason));
            Assert.Equal(4, all[1].Ids.Length);
            Assert.Equal((3, 1), (scheduler.Running, scheduler.Waiting));
            while (scheduler.Step()) { }
            Assert.All(all.Where((_, i) => i is not (1 or 4)), a => Assert.Equal((FinishReason.Length, 50), (a.Reason, a.Ids.Length)));
            Assert.Equal((0, 0), (scheduler.Pages.Used, scheduler.Pages.Idle));
            // Ctrl-C between two steps of a reader, and a reader that goes.
            using var stop = new CancellationTokenSource();
            Assert.Throws<OperationCanceledException>(() =>
            {
                foreach (var _ in scheduler.Read(scheduler.Add(new GenerationRequest([1, 2], Sampling.Greedy(50))), stop.Token)) stop.Cancel();
            });
            _ = scheduler.Read(scheduler.Add(new GenerationRequest([1, 2], Sampling.Greedy(50))), Stop).Take(2).Count();
            stop.Dispose();
            using var again = new CancellationTokenSource();
            Assert.Throws<OperationCanceledException>(() =>
            {
                foreach (var _ in scheduler.ReadAll(Requests(Drawn)[..5], again.Token)) again.Cancel();
            });
            Assert.Equal((0, 0, 0), (scheduler.Running, scheduler.Waiting, scheduler.Pages.Used));
            scheduler.Add(new GenerationRequest([1, 2], Sampling.Greedy(50)));
            scheduler.Step(); // and one that runs when the scheduler goes
        }
        Assert.Equal(before, Tiny.Alive());
    }

    [Fact]
    public void A_cache_without_room_makes_requests_wait_and_loses_none()
    {
        using var model = Tiny.WithAdapter();
        var requests = Requests(Drawn);
        using var roomy = new Scheduler(model, settings: new SchedulerSettings { Slots = 21 });
        var expected = roomy.ReadAll(requests, Stop).ToDictionary(a => a.Row, a => a.Answer.Ids);
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 21, CacheTokens = 192 }); // three pages
        foreach (var (row, answer) in scheduler.ReadAll(requests, Stop)) Assert.Equal(expected[row], answer.Ids);
        Assert.Equal(3, scheduler.Pages.Count);
        // One that fills the whole cache ends there.
        var longest = Run(scheduler, new GenerationRequest([1, 2, 3], Sampling.Greedy(250)));
        Assert.Equal((FinishReason.Length, 190), (longest.Reason, longest.Ids.Length));
        Assert.Equal("the prompt has 192 tokens; the cache has room for 192",
            Assert.Throws<ArgumentException>(() => scheduler.Add(new GenerationRequest(new int[192], Drawn))).Message);
    }

    [Fact]
    public void Logprobs_are_the_log_softmax_of_the_logits()
    {
        using var model = Tiny.WithAdapter();
        int[] prompt = [5, 6, 7];
        using var scheduler = new Scheduler(model);
        var sampling = Drawn with { RepetitionPenalty = 1.3, PresencePenalty = 0.5 };
        var answer = Run(scheduler, new GenerationRequest(prompt, sampling) { Logprobs = 4, LogitBias = new Dictionary<int, float> { [11] = 3 } });
        int[] all = [.. prompt, .. answer.Ids];
        using var logits = model.Logits(TokenBatch.ForInference([all]));
        var tokens = Tokens(answer);
        for (var i = 0; i < answer.Ids.Length; i++)
        {
            using var row = logits.Slice(prompt.Length - 1 + i, 1);
            var values = row.ToFloats();
            var sum = Math.Log(values.Sum(v => Math.Exp(v - values.Max()))) + values.Max();
            Assert.Equal(values[answer.Ids[i]] - sum, tokens[i].Logprob!.Value, 1e-4);
            Assert.Equal(4, tokens[i].Likeliest!.Count);
            var best = values.Select((v, id) => (v, id)).OrderByDescending(v => v.v).Take(4).ToArray();
            for (var n = 0; n < 4; n++) Assert.Equal(best[n].v - sum, tokens[i].Likeliest![n].Logprob, 1e-4);
        }
    }

    [Fact]
    public void A_bias_a_mask_and_penalties_act_on_their_request_alone()
    {
        using var model = Tiny.WithAdapter();
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 8 });
        int[] prompt = [5, 6, 7];
        Completion Add(GenerationRequest request) => scheduler.Add(request);
        var plain = Add(new GenerationRequest(prompt, Sampling.Greedy(20)));
        var biased = Add(new GenerationRequest(prompt, Sampling.Greedy(20)) { LogitBias = new Dictionary<int, float> { [33] = 1000 } });
        var masked = Add(new GenerationRequest(prompt, Sampling.Greedy(20)) { Mask = new OneByOne() });
        var broken = Add(new GenerationRequest(prompt, Sampling.Greedy(20)) { Mask = new Nothing() });
        var present = Add(new GenerationRequest(prompt, Sampling.Greedy(20) with { PresencePenalty = 1000 }));
        var frequent = Add(new GenerationRequest(prompt, Sampling.Greedy(20) with { FrequencyPenalty = 1000 }));
        var likely = Add(new GenerationRequest(prompt, new Sampling(20, Temperature: 5, TopP: 1, TopK: 0) { MinP = 1 }));
        while (scheduler.Step()) { }
        Assert.Equal(Scheduler.Generate(model, plain.Request, rowsAlike: true, cancel: Stop), plain.Ids);
        Assert.All(biased.Ids, id => Assert.Equal(33, id));
        Assert.Equal(Enumerable.Range(40, 20), masked.Ids);
        Assert.Equal(20, present.Ids.Distinct().Count());
        Assert.Equal(20, frequent.Ids.Distinct().Count());
        Assert.Equal(plain.Ids, likely.Ids); // nothing less likely than the likeliest
        Assert.Equal(FinishReason.Failed, broken.Reason);
        Assert.Empty(broken.Ids);
        Assert.Throws<InvalidOperationException>(() => broken.ReadAllAsync(Stop).ToBlockingEnumerable(Stop).Count());
    }

    [Fact]
    public async Task A_loop_of_its_own_serves_readers_of_any_thread()
    {
        using var model = Tiny.WithAdapter();
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 4 });
        using var stop = new CancellationTokenSource();
        var loop = Task.Run(() => scheduler.Loop(stop.Token), Stop);
        var requests = Requests(Drawn);
        var answers = await Task.WhenAll(requests.Select(async request =>
        {
            await Task.Yield();
            var answer = scheduler.Add(request);
            List<int> ids = [];
            await foreach (var token in answer.ReadAllAsync(Stop)) ids.Add(token.Id!.Value);
            Assert.Equal(answer.Ids, ids);
            return ids.ToArray();
        }));
        for (var i = 0; i < requests.Length; i++) Assert.Equal(Scheduler.Generate(model, requests[i], rowsAlike: true, cancel: Stop), answers[i]);
        await stop.CancelAsync();
        await loop;
    }

    /// <summary>A card that is full fails what ran in the step, and no more: the thread of a server goes on.</summary>
    [Fact]
    public async Task A_loop_outlives_a_step_that_memory_was_too_small_for()
    {
        using var model = Tiny.WithAdapter();
        using var scheduler = new Scheduler(model);
        using var stop = new CancellationTokenSource();
        var loop = Task.Run(() => scheduler.Loop(stop.Token), Stop);
        scheduler.Post(() => throw new InsufficientMemoryException("cuda:0 has no room"));
        var answer = scheduler.Add(new GenerationRequest([5, 6], Sampling.Greedy(3)));
        await foreach (var _ in answer.ReadAllAsync(Stop))
        {
        }
        Assert.Equal(FinishReason.Length, answer.Reason);
        await stop.CancelAsync();
        await loop;
    }

    [Fact]
    public void What_is_posted_again_and_again_does_not_hold_up_those_that_run()
    {
        using var model = Tiny.WithAdapter();
        using var scheduler = new Scheduler(model);
        var answer = scheduler.Add(new GenerationRequest([5, 6], Sampling.Greedy(4)));
        void Again() => scheduler.Post(Again);
        Again();
        for (var step = 0; step < 4; step++) Assert.True(scheduler.Step());
        Assert.True(answer.IsDone);
    }

    [Fact]
    public void Stop_texts_run_over_tokens()
    {
        using var model = Tiny.Build();
        using var scheduler = new Scheduler(model, Samples.Small);
        var free = Run(scheduler, new GenerationRequest([5, 6, 7], Drawn with { MaxNewTokens = 60 }));
        Assert.Equal(Samples.Small.Decode(free.Ids, skipSpecial: true), free.Text);
        Assert.Equal(free.Text, string.Concat(Tokens(free).Select(t => t.Text)));
        // Any three characters in the middle, which may lie in one, two or three tokens.
        for (var at = 5; at < free.Text.Length - 8; at += 7)
        {
            var stop = free.Text.Substring(at, 3);
            var ended = Run(scheduler, free.Request with { StopTexts = ["nothing like this", stop] });
            Assert.Equal(FinishReason.StopText, ended.Reason);
            Assert.Equal(free.Text[..free.Text.IndexOf(stop, StringComparison.Ordinal)], ended.Text);
            Assert.Equal(free.Ids[..ended.Ids.Length], ended.Ids);
            Assert.Equal(ended.Text, string.Concat(Tokens(ended).Select(t => t.Text)));
        }
        Assert.Equal("a stop text must not be empty", Assert.Throws<ArgumentException>(() => scheduler.Add(free.Request with { StopTexts = [""] })).Message);
        using var without = new Scheduler(model);
        Assert.Equal("stop texts need a scheduler with a tokenizer",
            Assert.Throws<ArgumentException>(() => without.Add(free.Request with { StopTexts = ["a"] })).Message);
    }

    [Fact]
    public void What_cannot_be_answered_is_named()
    {
        using var model = Tiny.Build();
        using var scheduler = new Scheduler(model);
        string Error(params GenerationRequest[] requests) => Assert.Throws<ArgumentException>(() => scheduler.ReadAll(requests, Stop)).Message;
        Assert.Equal("row 2: the prompt has no tokens", Error(new([1], Drawn), new([], Drawn)));
        Assert.StartsWith("row 1: the prompt has 256 tokens; the model was made for 256 positions", Error(new GenerationRequest(new int[256], Drawn)),
            StringComparison.Ordinal);
        Assert.Equal("row 1: the prompt holds token 512; the model has 512", Error(new GenerationRequest([1, 512], Drawn)));
        Assert.Equal("row 1: top_p must be in (0, 1], but is 0", Error(new GenerationRequest([1], Drawn with { TopP = 0 })));
        Assert.Equal("row 1: min_p must be in [0, 1], but is 2", Error(new GenerationRequest([1], Drawn with { MinP = 2 })));
        Assert.False(scheduler.Step());
    }

    /// <summary>Prompts of 1 to 90 tokens, some of which begin alike, each with a seed of its own.</summary>
    private static GenerationRequest[] Requests(Sampling sampling) => [.. Enumerable.Range(0, 21).Select(r => new GenerationRequest(
        [.. Enumerable.Range(0, 1 + (r * 37 % 90)).Select(i => ((i * 31) + (r % 3 * (i / 30) * 7)) % Tiny.Vocabulary)], sampling.Of(r)) { StopIds = Stops })];

    private static Completion Run(Scheduler scheduler, GenerationRequest request)
    {
        var completion = scheduler.Add(request);
        while (!completion.IsDone) scheduler.Step();
        return completion;
    }

    private static List<GeneratedToken> Tokens(Completion completion)
    {
        List<GeneratedToken> tokens = [];
        while (completion.TryRead(out var token)) tokens.Add(token with { Likeliest = token.Likeliest is { } l ? new Listed<TokenLogprob>(l) : null });
        return tokens;
    }

    private static void Name(CausalLm model, string name, int rank, int seed)
    {
        var random = new Random(seed);
        Tensor New(params long[] shape) => Tensor.From([.. Enumerable.Range(0, (int)shape.Aggregate(1L, (a, b) => a * b))
            .Select(_ => (random.NextSingle() - 0.5f) * 0.3f)], shape);
        foreach (var module in model.All())
        {
            if (module is KtNotebooks.Nn.Linear l && l != model.Head && !l.Path.EndsWith(".gate", StringComparison.Ordinal) && name != "b")
                l.Named.Add(name, new LinearLora(New(rank, l.Inputs), New(l.Outputs, rank), 2));
            if (module is not ExpertBank b) continue;
            var (E, D, I) = (b.Count, b.Width, b.Inner);
            b.Named.Add(name, new ExpertLora(New(E, rank, D), New(E, I, rank), New(E, rank, D), New(E, I, rank), New(E, rank, I), New(E, D, rank), 2));
        }
    }

    /// <summary>A list that equals one of the same values, as records want it.</summary>
    private sealed class Listed<T>(IReadOnlyList<T> values) : List<T>(values)
    {
        public override bool Equals(object? other) => other is Listed<T> list && this.SequenceEqual(list);

        public override int GetHashCode() => Count;
    }

    /// <summary>40, 41, 42, …</summary>
    private sealed class OneByOne : ITokenMask
    {
        public void Apply(Span<float> logits, IReadOnlyList<int> drawn)
        {
            for (var i = 0; i < logits.Length; i++)
                if (i != 40 + drawn.Count) logits[i] = float.NegativeInfinity;
        }
    }

    private sealed class Nothing : ITokenMask
    {
        public void Apply(Span<float> logits, IReadOnlyList<int> drawn) => logits.Fill(float.NegativeInfinity);
    }
}
