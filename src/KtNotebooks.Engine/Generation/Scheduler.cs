using System.Runtime.InteropServices;

using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Generation;

/// <summary>
/// The one way in which tokens are generated: chat, predictions, evaluation and the API add requests, and each <see cref="Step"/> runs one pass of the model
/// for all of them (continuous batching).
/// <code>
/// Add ─▶ waiting line ─▶ running: prompt rows, then one row a step ─▶ logits ─▶ sampler of its own ─▶ Completion (tokens, text, end)
///            ▲                │  pages of the cache, those of an equal beginning shared
///            └── no page left ┘  (the youngest goes back, its tokens are computed again; nothing is lost)
/// </code>
/// A pass lays the rows of all sequences end to end: those that have begun first, and those of one adapter beside each other, so that base and any number of
/// named adapters share a pass. Every row's beginning is looked up among cached pages by adapter and tokens, so the second turn of a conversation computes
/// its new tokens alone, and several answers to one prompt compute it once: a request whose beginning another one is just computing waits for it.
/// What a request becomes depends on its prompt, its sampling (with its own seed) and its adapter, see <see cref="SchedulerSettings.RowsAlike"/>.
/// <see cref="Add(GenerationRequest)"/> and <see cref="Completion.Cancel"/> may be called by any thread; steps are one thread's at a time, and so is training
/// of the same model.
/// When weights change (<see cref="WeightVersion"/>), what was kept for reuse is forgotten.
/// </summary>
public sealed class Scheduler : IDisposable
{
    private readonly CausalLm _model;
    private readonly Tokenizer? _tokenizer;
    private readonly SchedulerSettings _settings;
    private readonly int? _vocabulary;
    private readonly KvCache _cache;
    private readonly StepReplay? _replay;
    private readonly AdapterTables _tables;
    private readonly Lock _gate = new();
    private readonly LinkedList<Completion> _waiting = new();
    private readonly Queue<Action> _posted = new();
    private readonly SemaphoreSlim _added = new(0);
    private readonly List<Completion> _running = []; // oldest first
    private readonly List<Completion> _ended = [];
    private float[] _logits = [];
    private long _number, _weights = WeightVersion.Current;
    private int _stepping;
    private bool _disposed;

    /// <param name="model">What generates; not owned.</param>
    /// <param name="tokenizer">For text and stop texts, and because tokens that it has no text for are never drawn: models pad their vocabulary. Null:
    /// ids alone, of all tokens.</param>
    /// <param name="settings">Null: one sequence at a time.</param>
    public Scheduler(CausalLm model, Tokenizer? tokenizer = null, SchedulerSettings? settings = null)
    {
        ArgumentNullException.ThrowIfNull(model);
        (_model, _tokenizer, _settings, _vocabulary) = (model, tokenizer, settings ?? new SchedulerSettings(), tokenizer?.VocabSize);
        ArgumentOutOfRangeException.ThrowIfLessThan(_settings.Slots, 1, "slots");
        ArgumentOutOfRangeException.ThrowIfLessThan(_settings.PromptRows, 1, "prompt rows");
        _cache = new KvCache(_settings.CacheTokens, _settings.IdleTokens);
        _replay = _settings.RecordSteps ? new StepReplay(model, _vocabulary) : null;
        _tables = new AdapterTables(model);
    }

    /// <summary>Tokens drawn so far.</summary>
    public long Tokens { get; private set; }

    /// <summary>Passes of the model so far.</summary>
    public long Steps { get; private set; }

    /// <summary>Rows that the model has computed so far.</summary>
    public long Rows { get; private set; }

    /// <summary>Times that a sequence had to give its pages back.</summary>
    public long Preemptions { get; private set; }

    public int Running => _running.Count;

    public int Waiting
    {
        get
        {
            lock (_gate) return _waiting.Count;
        }
    }

    /// <summary>Bytes of the cache.</summary>
    public long CacheBytes => _cache.ByteLength;

    internal PagePool Pages => _cache.Pages;

    /// <summary>Steps that were one CUDA graph: see <see cref="SchedulerSettings.RecordSteps"/>.</summary>
    public long ReplayedSteps => _replay?.Replays ?? 0;

    /// <summary>What keeps steps from being recorded, in words; null: nothing so far.</summary>
    public string? NotRecorded => _replay?.Refusal;

    /// <summary>Puts a request in the line.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, too long for model or cache, or holds an unknown token; or the adapter is unknown.</exception>
    /// <exception cref="InvalidOperationException">The line is full, or the model was freed.</exception>
    public Completion Add(GenerationRequest request)
    {
        ArgumentNullException.ThrowIfNull(request);
        var (prompt, info) = (request.Prompt, _model.RequireWeights().Info);
        if (prompt.Count == 0) throw new ArgumentException("the prompt has no tokens");
        if (prompt.Count >= info.MaxPositions + (request.PromptOnly ? 1 : 0))
            throw new ArgumentException($"the prompt has {prompt.Count} tokens; the model was made "
                + $"for {info.MaxPositions} positions");
        if (PageTable.PagesOf(prompt.Count + 1L) > _cache.Pages.Limit)
            throw new ArgumentException($"the prompt has {prompt.Count} tokens; the cache has room for {(long)_cache.Pages.Limit * PageTable.Rows}");
        foreach (var id in prompt)
            if ((uint)id >= (uint)info.Vocabulary) throw new ArgumentException($"the prompt holds token {id}; the model has {info.Vocabulary}");
        if (request.StopTexts.Count > 0 && _tokenizer is null) throw new ArgumentException("stop texts need a scheduler with a tokenizer");
        if (request.StopTexts.Contains("")) throw new ArgumentException("a stop text must not be empty");
        if ((request.Logprobs is < 0 ? request.Logprobs : request.PromptLogprobs) is < 0 and var few)
            throw new ArgumentException($"logprobs must not be negative, but is {few}");
        request.Sampling.Checked();
        NamedAdapters.Check(_model, request.Adapter);
        var room = request.PromptOnly ? 0 : Math.Min(request.Sampling.MaxNewTokens, info.MaxPositions - prompt.Count);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_waiting.Count >= _settings.Waiting) throw new InvalidOperationException($"{_waiting.Count} requests wait already; no more are taken");
            var completion = new Completion(request, _number++, room, _cache.Add(), _tokenizer);
            _waiting.AddLast(completion);
            _added.Release();
            return completion;
        }
    }

    /// <summary>n answers to one prompt: the first draws with the request's seed, each other one with one of its own. The prompt is computed once.</summary>
    public IReadOnlyList<Completion> Add(GenerationRequest request, int n)
    {
        ArgumentNullException.ThrowIfNull(request);
        ArgumentOutOfRangeException.ThrowIfLessThan(n, 1);
        if (n > 1 && request.Mask is not null) throw new ArgumentException("a mask belongs to one answer; add each with its own");
        return [.. Enumerable.Range(0, n).Select(i => Add(i == 0 ? request : request with { Sampling = request.Sampling.Of(i) }))];
    }

    /// <summary>
    /// Runs something between two steps, on the thread that steps, so that it may change the model: adapters that come and go. From any thread. It must not
    /// throw: a step would fail with it.
    /// </summary>
    public void Post(Action between)
    {
        ArgumentNullException.ThrowIfNull(between);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _posted.Enqueue(between);
        }
        _added.Release();
    }

    /// <summary>What is kept of earlier prompts is computed again when it comes again. On the thread that steps: <see cref="Post"/>.</summary>
    public void ForgetPrompts() => _cache.Pages.ForgetAll();

    /// <summary>One pass for all that run. False: there was nothing to do.</summary>
    public bool Step()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (Interlocked.Exchange(ref _stepping, 1) != 0) throw new InvalidOperationException("a scheduler steps on one thread at a time");
        try
        {
            using var invariant = _settings.RowsAlike ? Cpu.RowInvariant() : null;
            _ended.Clear();
            RunPosted();
            Renew();
            DropCancelled();
            Admit();
            if (_running.Count == 0) return false;
            using var batch = Reserve(out var sequences, out var rows);
            if (batch is null) return true; // the only one there was has ended: it cannot grow
            Compute(batch, sequences, rows);
            return true;
        }
        catch (Exception error)
        {
            foreach (var one in _running.ToArray()) End(one, FinishReason.Failed, error);
            throw;
        }
        finally
        {
            Volatile.Write(ref _stepping, 0);
        }
    }

    /// <summary>
    /// Steps until cancelled, and waits while there is nothing to do: the loop of a server's thread. A failed step fails what ran in it, and it goes on.
    /// </summary>
    public void Loop(CancellationToken cancel)
    {
        while (!cancel.IsCancellationRequested)
        {
            try
            {
                if (!Step()) _added.Wait(100, cancel);
            }
            catch (Exception error) when (error is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
            catch (Exception error) when (error is InsufficientMemoryException or not OutOfMemoryException) // a full card is no full process
            {
                continue; // what ran holds the error
            }
        }
    }

    /// <summary>Steps until an answer is complete, and yields its tokens. Leaving early, or cancelling (OperationCanceledException), cancels it.</summary>
    public IEnumerable<GeneratedToken> Read(Completion completion, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(completion);
        try
        {
            while (true)
            {
                while (completion.TryRead(out var token)) yield return token;
                if (completion.IsDone) yield break;
                cancel.ThrowIfCancellationRequested();
                Step();
            }
        }
        finally
        {
            if (!completion.IsDone)
            {
                completion.Cancel();
                DropCancelled();
            }
        }
    }

    /// <summary>The tokens of one request, for whoever wants no more: notebooks, checks.</summary>
    public static IEnumerable<int> Generate(CausalLm model, GenerationRequest request, Tokenizer? tokenizer = null, bool rowsAlike = false,
        CancellationToken cancel = default)
    {
        var scheduler = new Scheduler(model, tokenizer, new SchedulerSettings { PromptRows = int.MaxValue, IdleTokens = 0, RowsAlike = rowsAlike });
        return Tokens(scheduler.Add(request));

        IEnumerable<int> Tokens(Completion completion)
        {
            using var owned = scheduler;
            foreach (var token in scheduler.Read(completion, cancel))
                if (token.Id is { } id) yield return id;
        }
    }

    /// <summary>
    /// Answers to many requests as they are finished, each with its place in the list. Cancelling ends between two passes (OperationCanceledException), and
    /// what is not finished is dropped.
    /// </summary>
    /// <exception cref="ArgumentException">A request that cannot be answered; its row is named.</exception>
    public IEnumerable<(int Row, Completion Answer)> ReadAll(IReadOnlyList<GenerationRequest> requests, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(requests);
        Dictionary<Completion, int> rows = [];
        for (var row = 0; row < requests.Count; row++)
        {
            try
            {
                rows.Add(Add(requests[row]), row);
            }
            catch (ArgumentException error)
            {
                foreach (var added in rows.Keys) added.Cancel();
                DropCancelled();
                throw new ArgumentException($"row {row + 1}: {error.Message}", error);
            }
        }
        return Finished();

        IEnumerable<(int, Completion)> Finished()
        {
            try
            {
                while (rows.Count > 0)
                {
                    cancel.ThrowIfCancellationRequested();
                    Step();
                    foreach (var ended in _ended.ToArray())
                        if (rows.Remove(ended, out var row)) yield return (row, ended);
                }
            }
            finally
            {
                foreach (var left in rows.Keys) left.Cancel();
                DropCancelled();
            }
        }
    }

    /// <summary>Ends everything that runs or waits, and frees the cache.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_disposed) return;
            _disposed = true;
            foreach (var one in _waiting) one.Finish(FinishReason.Cancelled);
            _waiting.Clear();
        }
        foreach (var one in _running.ToArray()) End(one, FinishReason.Cancelled);
        _replay?.Dispose();
        _tables.Dispose();
        _cache.Dispose();
        _added.Dispose();
    }

    /// <summary>What was there when it began: what comes meanwhile waits for the next step, so that those that run go on.</summary>
    private void RunPosted()
    {
        int left;
        lock (_gate) left = _posted.Count;
        for (; left > 0; left--)
        {
            Action next;
            lock (_gate)
                if (!_posted.TryDequeue(out next!)) return;
            next();
        }
    }

    private void Renew()
    {
        if (_weights == WeightVersion.Current) return;
        _weights = WeightVersion.Current;
        _cache.Pages.ForgetAll();
    }

    private void DropCancelled()
    {
        lock (_gate)
        {
            for (var node = _waiting.First; node is not null;)
            {
                var next = node.Next;
                if (node.Value.IsCancelled)
                {
                    node.Value.Finish(FinishReason.Cancelled);
                    _waiting.Remove(node);
                    _ended.Add(node.Value);
                }
                node = next;
            }
        }
        foreach (var one in _running.Where(r => r.IsCancelled).ToArray()) End(one, FinishReason.Cancelled);
    }

    /// <summary>Takes requests in, in their order, while there are slots, pages and rows for their prompts.</summary>
    private void Admit()
    {
        var joined = 0;
        while (_running.Count < _settings.Slots)
        {
            Completion next;
            lock (_gate)
            {
                if (_waiting.First is not { } first) return;
                next = first.Value;
            }
            if (IsBeingComputed(next)) return;
            // What is found belongs to it from now on, so that nothing of it goes while the rest is looked for.
            var found = next.Cached.Reuse(next.Request.Adapter, next.Reusable);
            var fits = next.Cached.MissingPages(next.Pending) <= _cache.Pages.Available - Growth() && (_settings.CutPrompts ? joined < _settings.PromptRows
                : joined == 0 || joined + next.Pending <= _settings.PromptRows);
            if (!fits)
            {
                next.Cached.Free();
                if (_running.Count > 0) return;
                lock (_gate) _waiting.Remove(next);
                EndFull(next);
                continue;
            }
            if (next.Count == 0) next.CachedTokens = found;
            joined += next.Pending;
            lock (_gate) _waiting.Remove(next);
            _running.Add(next);
        }
    }

    /// <summary>Pages that those which run need for their next row.</summary>
    private int Growth() => _running.Sum(r => r.Cached.MissingPages(r.Pending));

    /// <summary>A running sequence is at the prompt of this one: it is worth waiting for pages that it will have filled.</summary>
    private bool IsBeingComputed(Completion next)
    {
        foreach (var other in _running)
        {
            if (other.Pending <= 1 || other.Request.Adapter != next.Request.Adapter) continue;
            var alike = next.Reusable.CommonPrefixLength(CollectionsMarshal.AsSpan(other.All));
            if (alike / PageTable.Rows > other.Cached.Length / PageTable.Rows) return true;
        }
        return false;
    }

    /// <summary>Rows of each running sequence, and pages for them; the youngest go back in line where there are too few.</summary>
    private CacheBatch? Reserve(out Completion[] sequences, out int[] rows)
    {
        while (true)
        {
            // Those that have begun first, then by adapter, then by age: a stretch of rows for each.
            sequences = [.. _running.OrderBy(r => r.Cached.Length == 0).ThenBy(r => r.Request.Adapter, StringComparer.Ordinal).ThenBy(r => r.Number)];
            rows = new int[sequences.Length];
            var left = _settings.CutPrompts ? _settings.PromptRows : int.MaxValue;
            var lined = sequences;
            foreach (var i in Enumerable.Range(0, rows.Length).OrderBy(i => lined[i].Number))
            {
                rows[i] = lined[i].Pending == 1 ? 1 : Math.Min(lined[i].Pending, left);
                if (lined[i].Pending > 1) left -= rows[i];
            }
            var wanted = rows;
            (sequences, rows) = ([.. sequences.Where((_, i) => wanted[i] > 0)], [.. wanted.Where(n => n > 0)]);
            if (_cache.TryBatch([.. sequences.Select(s => s.Cached)], rows) is { } batch) return batch;
            if (_running is [var last])
            {
                EndFull(last);
                return null;
            }
            var youngest = _running.MaxBy(r => r.Number)!;
            _running.Remove(youngest);
            youngest.Cached.Publish(CollectionsMarshal.AsSpan(youngest.All));
            youngest.Cached.Free();
            lock (_gate) _waiting.AddFirst(youngest);
            Preemptions++;
        }
    }

    private void Compute(CacheBatch cached, Completion[] sequences, int[] rows)
    {
        using var tape = Tape.Scratch();
        var batch = TokenBatch.ForInference([.. sequences.Select((s, i) => s.All.GetRange(s.Cached.Length, rows[i]).ToArray())], cached.Held);
        var pass = Pass.Inference(batch, cached) with { RowsAlike = _settings.RowsAlike };
        pass = _tables.With(pass, sequences, batch.SeqStarts[1..]);
        var replayed = _replay is not null && sequences.All(s => s.Pending == 1 && s.Cached.Length > 0) ? _replay.Logits(batch, cached, pass) : null;
        var hidden = replayed is null ? _model.Hidden(batch, pass) : null;
        cached.Commit();
        Rows += batch.Tokens;
        Steps++;
        int[] ready = [.. Enumerable.Range(0, sequences.Length).Where(i => sequences[i].Pending == 0)];
        var before = sequences.Sum(s => s.All.Count);
        if (hidden is null) Draws.Take(sequences, replayed!, _vocabulary);
        else
        {
            PromptScores.Read(batch, cached.Held, sequences, rows, _model.Info.Vocabulary, _vocabulary,
                (one, first, n) => LogitsOf(hidden, batch, [.. Enumerable.Range(first, n)], [one], [n]));
            if (ready.Length > 0) DrawFrom(hidden, batch, ready, [.. ready.Select(i => sequences[i])]);
        }
        Tokens += sequences.Sum(s => s.All.Count) - before;
        foreach (var one in sequences)
            if (!one.IsDone && (one.Cached.Length % PageTable.Rows == 0 || one.Pending > 1 || one.All.Count == one.Request.Prompt.Count + 1)) Publish(one);
        foreach (var one in sequences.Where(s => s.IsDone)) Leave(one);
    }

    /// <summary>Logits [n, V] of some rows of hidden [T, D]: those of each sequence end before its place in ends.</summary>
    private Tensor LogitsOf(Tensor hidden, TokenBatch batch, int[] rows, Completion[] sequences, int[] ends)
    {
        var pass = _tables.With(Pass.Inference(batch) with { RowsAlike = _settings.RowsAlike }, sequences, ends);
        return _model.Logits(rows.Length == batch.Tokens ? hidden : GatherRows.Apply(hidden, rows), pass);
    }

    private void DrawFrom(Tensor hidden, TokenBatch batch, int[] ready, Completion[] drawing)
    {
        var logits = LogitsOf(hidden, batch, [.. ready.Select(i => batch.SeqStarts[i + 1] - 1)], drawing, [.. Enumerable.Range(1, ready.Length)]);
        if (_logits.Length < logits.Count) _logits = new float[logits.Count];
        logits.CopyTo(_logits.AsSpan(0, (int)logits.Count));
        Draws.Take(drawing, _logits.AsSpan(0, (int)logits.Count), _vocabulary);
    }

    private static void Publish(Completion one) => one.Cached.Publish(CollectionsMarshal.AsSpan(one.All));

    private void End(Completion one, FinishReason reason, Exception? error = null)
    {
        one.Finish(reason, error);
        Leave(one, publish: reason != FinishReason.Failed);
    }

    /// <summary>It has filled the whole cache; or memory ended before a cache that its prompt needs.</summary>
    private void EndFull(Completion one)
    {
        if (one.Count > 0) End(one, FinishReason.Length);
        else End(one, FinishReason.Failed, new InsufficientMemoryException($"a prompt of {one.Request.Prompt.Count} tokens does not fit the memory that is "
            + $"left: the cache has room for {(long)_cache.Pages.Limit * PageTable.Rows}"));
    }

    private void Leave(Completion one, bool publish = true)
    {
        if (publish) Publish(one);
        one.Cached.Free();
        _running.Remove(one);
        _ended.Add(one);
    }
}
