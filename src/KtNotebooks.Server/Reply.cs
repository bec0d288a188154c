using System.Runtime.CompilerServices;
using System.Threading.Channels;

namespace KtNotebooks.Server;

/// <summary>All answers to one request. To be disposed: what is not read to the end is cancelled.</summary>
public sealed class Reply : IDisposable
{
    private readonly Action<Reply> _ended;
    private int _disposed;

    internal Reply(ModelRequest request, ServedModel model, IReadOnlyList<Answer> answers, Action<Reply> ended) =>
        (Request, Model, Answers, _ended) = (request, model, answers, ended);

    public ModelRequest Request { get; }

    public ServedModel Model { get; }

    public IReadOnlyList<Answer> Answers { get; }

    public DateTimeOffset Created { get; } = DateTimeOffset.UtcNow;

    public Usage Usage => Usage.Of(Answers);

    /// <summary>Why it failed, for traces; null: it did not.</summary>
    public Exception? Error { get; private set; }

    /// <summary>Reads every answer to its end.</summary>
    public async Task ReadToEndAsync(CancellationToken cancel = default)
    {
        try
        {
            await Task.WhenAll(Answers.Select(a => a.ReadToEndAsync(cancel)));
        }
        catch (Exception error)
        {
            Error = error;
            throw;
        }
    }

    /// <summary>Parts of all answers as they come; null: this answer is done.</summary>
    public async IAsyncEnumerable<(Answer Answer, AnswerPart? Part)> ReadAsync([EnumeratorCancellation] CancellationToken cancel = default)
    {
        await using var parts = (Answers.Count == 1 ? Of(Answers[0], cancel) : Merged(cancel)).GetAsyncEnumerator(cancel);
        while (true)
        {
            try
            {
                if (!await parts.MoveNextAsync()) yield break;
            }
            catch (Exception error)
            {
                Error = error;
                throw;
            }
            yield return parts.Current;
        }
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        foreach (var answer in Answers) answer.Cancel();
        _ended(this);
    }

    private static async IAsyncEnumerable<(Answer, AnswerPart?)> Of(Answer answer, [EnumeratorCancellation] CancellationToken cancel)
    {
        await foreach (var part in answer.ReadAsync(cancel)) yield return (answer, part);
        yield return (answer, null);
    }

    private async IAsyncEnumerable<(Answer, AnswerPart?)> Merged([EnumeratorCancellation] CancellationToken cancel)
    {
        var merged = Channel.CreateUnbounded<(Answer, AnswerPart?)>(new UnboundedChannelOptions { SingleReader = true });
        var readers = Task.WhenAll(Answers.Select(async answer =>
        {
            await foreach (var part in Of(answer, cancel)) merged.Writer.TryWrite(part);
        }));
        _ = readers.ContinueWith(
            done => merged.Writer.TryComplete(done.Exception?.InnerException ?? (done.IsCanceled ? new OperationCanceledException() : null)),
            CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
        await foreach (var part in merged.Reader.ReadAllAsync(cancel)) yield return part;
    }
}
