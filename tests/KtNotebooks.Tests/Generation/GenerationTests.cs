using KtNotebooks.Autograd;
using KtNotebooks.Data;
using KtNotebooks.Generation;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Generation;

[Collection("cpu variant")]
public class GenerationTests
{
    private static readonly int[] Prompt = [.. Enumerable.Range(0, 90).Select(i => i * 31 % Tiny.Vocabulary)];

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    /// <summary>Ninety rows: more than the cache's first room of 64, so it has grown.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    [InlineData(64)]
    public void Pieces_of_a_prompt_through_the_cache_give_the_logits_of_the_whole(int piece)
    {
        using var model = Tiny.WithAdapter();
        using var whole = model.Logits(TokenBatch.ForInference([Prompt]));
        using var cache = new KvCache();
        CachedSequence[] sequence = [cache.Add()];
        var row = 0;
        foreach (var part in Prompt.Chunk(piece))
        {
            using var tape = Tape.Scratch();
            var batch = TokenBatch.ForInference([part], [row]);
            using var held = cache.Batch(sequence, [part.Length]);
            Close(whole.ToFloats()[(row * Tiny.Vocabulary)..((row + part.Length) * Tiny.Vocabulary)],
                model.Logits(model.Hidden(batch, held), Pass.Inference(batch)).ToFloats());
            held.Commit();
            row += part.Length;
            Assert.Equal(row, sequence[0].Length);
        }
    }

    [Fact]
    public void Sequences_share_a_cache_without_seeing_each_other()
    {
        using var model = Tiny.WithAdapter();
        int[][] all = [Prompt[..70], Prompt[5..25], Prompt[40..43]];
        int[] cut = [60, 4, 2];
        using var cache = new KvCache();
        CachedSequence[] sequences = [cache.Add(), cache.Add(), cache.Add()];
        using (var tape = Tape.Scratch())
        using (var held = cache.Batch(sequences, cut))
        {
            model.Hidden(TokenBatch.ForInference([.. all.Zip(cut, (s, c) => s[..c])]), held);
            held.Commit();
        }
        using (var tape = Tape.Scratch())
        using (var held = cache.Batch(sequences, [.. all.Zip(cut, (s, c) => s.Length - c)]))
        {
            var batch = TokenBatch.ForInference([.. all.Zip(cut, (s, c) => s[c..])], cut);
            var together = model.Logits(model.Hidden(batch, held), Pass.Inference(batch)).ToFloats();
            held.Commit();
            for (var s = 0; s < all.Length; s++)
            {
                using var alone = model.Logits(TokenBatch.ForInference([all[s]]));
                Close(alone.ToFloats()[(cut[s] * Tiny.Vocabulary)..],
                    together[(batch.SeqStarts[s] * Tiny.Vocabulary)..(batch.SeqStarts[s + 1] * Tiny.Vocabulary)]);
                Assert.Equal(all[s].Length, sequences[s].Length);
            }
        }
    }

    [Fact]
    public void Tokens_that_the_tokenizer_has_no_text_for_are_never_drawn()
    {
        using var folder = new Samples.Folder();
        var path = Tiny.Save(Path.Combine(folder.Path, "model"));
        var flat = new Sampling(60, TopP: 1, TopK: 0, Temperature: 5);
        using var chat = ChatSession.Open($"model_name_or_path={path}", "template=deepseek", "top_p=1", "top_k=0", "temperature=5", "max_new_tokens=60");
        var known = chat.Tokenizer.VocabSize;
        Assert.InRange(known, 1, Tiny.Vocabulary - 1);
        var prompt = chat.Template.EncodePrompt(chat.Tokenizer, [new Message(Role.User, "Hello?")], null);
        var stops = chat.Template.StopIds(chat.Tokenizer).ToHashSet();
        Assert.Contains(Scheduler.Generate(chat.Model, new GenerationRequest(prompt, flat), cancel: Stop), id => id >= known);
        int[] masked = [.. Scheduler.Generate(chat.Model, new GenerationRequest(prompt, flat) { StopIds = stops }, chat.Tokenizer, cancel: Stop)];
        Assert.True(masked.Length > 10);
        Assert.All(masked, id => Assert.InRange(id, 0, known - 1));
        Assert.Equal(chat.Tokenizer.Decode(masked, skipSpecial: true), string.Concat(chat.Ask("Hello?", Stop)));
    }

    /// <summary>As a notebook has it whose loading cell ran again: "the tensor has been disposed" told nobody what to do.</summary>
    [Fact]
    public void A_chat_whose_model_was_freed_says_so()
    {
        using var folder = new Samples.Folder();
        var path = Tiny.Save(Path.Combine(folder.Path, "model"));
        using var opened = ChatSession.Open($"model_name_or_path={path}", "template=deepseek", "max_new_tokens=2");
        using var chat = new ChatSession(opened.Model, opened.Tokenizer, opened.Template, opened.Sampling);
        opened.Model.Dispose();
        Assert.Contains("the model was freed", Assert.Throws<InvalidOperationException>(() => chat.Answer("Hello?", Stop)).Message, StringComparison.Ordinal);
    }

    /// <summary>Template, question and answer of the first turn are in the cache when the second is asked: only what is behind them is computed.</summary>
    [Fact]
    public void A_second_question_computes_what_is_new()
    {
        using var folder = new Samples.Folder();
        var path = Tiny.Save(Path.Combine(folder.Path, "model"));
        using var chat = ChatSession.Open($"model_name_or_path={path}", "template=deepseek", "max_new_tokens=20", "do_sample=false", "infer_dtype=float32");
        var first = string.Concat(chat.Ask("Hello?", Stop));
        var before = chat.Rows;
        var second = string.Concat(chat.Ask("And now?", Stop));
        Message[] turns = [new(Role.User, "Hello?"), new(Role.Assistant, first), new(Role.User, "And now?")];
        var prompt = chat.Template.EncodePrompt(chat.Tokenizer, turns, null).Length;
        var computed = chat.Rows - before;
        // At most the answer's first tokens again (its text may be cut into other tokens), the question, and 19 rows of the new answer.
        Assert.InRange(computed, 1, prompt - chat.Template.EncodePrompt(chat.Tokenizer, turns[..1], null).Length + 20);
        chat.Clear();
        Assert.Equal(first, string.Concat(chat.Ask("Hello?", Stop))); // from the cache
        Assert.Equal(second, string.Concat(chat.Ask("And now?", Stop)));
        Assert.NotEqual(FinishReason.None, chat.Ended);
        chat.Clear();
        chat.Sampling = chat.Sampling with { MaxNewTokens = 1 };
        Assert.NotEmpty(first); // so its first token does not end it
        Assert.StartsWith(string.Concat(chat.Ask("Hello?", Stop)), first, StringComparison.Ordinal);
        Assert.Equal(FinishReason.Length, chat.Ended);
    }

    [Fact]
    public void Greedy_tokens_are_the_largest_logits_of_the_whole_sequence()
    {
        using var model = Tiny.WithAdapter();
        int[] tokens = [.. Generate(model, Prompt[..5], Sampling.Greedy(20), [], Stop)];
        Assert.Equal(20, tokens.Length);
        Assert.Equal(tokens, Generate(model, Prompt[..5], new Sampling(20, DoSample: true, Temperature: 0), [], Stop));
        int[] sequence = [.. Prompt[..5], .. tokens];
        using var logits = model.Logits(TokenBatch.ForInference([sequence]));
        for (var i = 0; i < 20; i++) Assert.Equal(Array.IndexOf(logits.Slice(4 + i, 1).ToFloats(), logits.Slice(4 + i, 1).ToFloats().Max()), tokens[i]);
    }

    [Fact]
    public void A_stop_token_ends_the_answer_and_is_not_part_of_it()
    {
        using var model = Tiny.WithAdapter();
        int[] free = [.. Generate(model, Prompt[..5], new Sampling(30, Temperature: 2, TopP: 1, TopK: 0), [], Stop)];
        var at = Enumerable.Range(3, 20).First(i => !free.Take(i).Contains(free[i]));
        Assert.Equal(free.Take(at), Generate(model, Prompt[..5], new Sampling(30, Temperature: 2, TopP: 1, TopK: 0), [free[at]], Stop));
    }

    [Fact]
    public void The_seed_decides_the_tokens()
    {
        using var model = Tiny.WithAdapter();
        int[] Draw(ulong seed) => [.. Generate(model, Prompt[..5], new Sampling(20, Temperature: 2, TopP: 1, TopK: 0, Seed: seed), [], Stop)];
        Assert.Equal(Draw(1), Draw(1));
        Assert.NotEqual(Draw(1), Draw(2));
    }

    [Fact]
    public void The_positions_of_the_model_are_the_end()
    {
        using var model = Tiny.Build();
        int[] prompt = [.. Enumerable.Repeat(7, 250)];
        Assert.Equal(6, Generate(model, prompt, Sampling.Greedy(100), [], Stop).Count());
        Assert.Equal("the prompt has 256 tokens; the model was made for 256 positions",
            Assert.Throws<ArgumentException>(() => Generate(model, [.. Enumerable.Repeat(7, 256)], Sampling.Greedy(1), [], Stop)).Message);
        Assert.Equal("the prompt has no tokens",
            Assert.Throws<ArgumentException>(() => Generate(model, [], Sampling.Greedy(1), [], Stop)).Message);
    }

    [Fact]
    public void A_finished_a_stopped_and_a_left_answer_leave_nothing()
    {
        using var model = Tiny.WithAdapter();
        _ = Generate(model, Prompt, Sampling.Greedy(3), [], Stop).Count();
        var before = Tiny.Alive();
        _ = Generate(model, Prompt, Sampling.Greedy(3), [], Stop).Count();
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
        _ = Generate(model, Prompt, Sampling.Greedy(30), [], Stop).Take(2).Count();
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
        using var stop = new CancellationTokenSource();
        Assert.Throws<OperationCanceledException>(() =>
        {
            foreach (var _ in Generate(model, Prompt, Sampling.Greedy(30), [], stop.Token)) stop.Cancel();
        });
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
    }

    private static IEnumerable<int> Generate(CausalLm model, int[] prompt, Sampling sampling, HashSet<int> stops, CancellationToken cancel) =>
        Scheduler.Generate(model, new GenerationRequest(prompt, sampling) { StopIds = stops }, cancel: cancel);

    /// <summary>Rows of the same model in other groupings: sums of at most V terms in another order.</summary>
    private static void Close(float[] expected, float[] actual)
    {
        Assert.Equal(expected.Length, actual.Length);
        var limit = expected.Max(Math.Abs) * Tiny.Vocabulary / (1 << 23);
        for (var i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= limit, $"logits[{i}] is {actual[i]}, expected {expected[i]} within {limit}");
    }
}
