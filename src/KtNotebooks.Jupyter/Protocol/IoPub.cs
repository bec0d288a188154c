using System.Text;
using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>
/// Everything the kernel broadcasts, sent by one thread in the order in which it was posted.
/// Printed text is joined in the queue: the last stream message stays open for up to 60 ms or 8 kB, so 2,000 small prints become a
/// handful of messages and stay below Jupyter's limit of 1,000 a second.
/// Posting is done in finally blocks, where the runtime delivers no abort: interrupting a cell can never leave the queue half changed.
/// </summary>
internal sealed class IoPub
{
    private const int OpenMilliseconds = 60;
    private const int OpenCharacters = 8 * 1024;
    private const long MaxQueuedCharacters = 32L << 20;

    private readonly Wire _wire;
    private readonly ZmqSocket _socket;
    private readonly Thread _sender;
    private readonly Queue<Item> _queue = [];
    private Item? _last;
    private long _queuedCharacters;
    private bool _closed;

    private sealed class Item
    {
        public required string Type { get; init; }
        public required byte[]? Parent { get; init; }
        public JsonObject? Content { get; init; }
        public StringBuilder? Text { get; init; }
        public string? Stream { get; init; }
        public long Opened { get; } = Environment.TickCount64;
    }

    internal IoPub(Wire wire, ZmqSocket socket)
    {
        (_wire, _socket) = (wire, socket);
        _sender = new Thread(Send) { IsBackground = true, Name = "iopub" };
        _sender.Start();
    }

    internal void Post(string type, byte[]? parent, JsonObject content) => Enqueue(new Item { Type = type, Parent = parent, Content = content });

    internal void Status(string state, byte[]? parent) => Post("status", parent, new JsonObject { ["execution_state"] = state });

    /// <summary>Waits while more than 32 Mi characters are unsent, so that an endless print loop cannot eat the memory.</summary>
    internal void Write(string stream, byte[]? parent, string text)
    {
        if (text.Length == 0) return;
        while (Volatile.Read(ref _queuedCharacters) > MaxQueuedCharacters && !_closed) Thread.Sleep(5);
        try { }
        finally
        {
            lock (_queue)
            {
                _queuedCharacters += text.Length;
                if (_last is { Text: { } open } last && last.Stream == stream && last.Parent == parent && open.Length < OpenCharacters)
                {
                    open.Append(text);
                    if (open.Length >= OpenCharacters) Monitor.Pulse(_queue);
                }
                else
                {
                    Add(new Item { Type = "stream", Parent = parent, Stream = stream, Text = new StringBuilder(text) });
                }
            }
        }
    }

    /// <summary>Sends what is queued and ends the thread.</summary>
    internal void Close()
    {
        lock (_queue)
        {
            _closed = true;
            Monitor.Pulse(_queue);
        }
        _sender.Join();
    }

    private void Enqueue(Item item)
    {
        try { }
        finally
        {
            lock (_queue) Add(item);
        }
    }

    private void Add(Item item)
    {
        _queue.Enqueue(item);
        _last = item;
        Monitor.Pulse(_queue);
    }

    private void Send()
    {
        using (_socket)
        {
            while (Next() is { } item)
            {
                var content = item.Content ?? new JsonObject { ["name"] = item.Stream, ["text"] = item.Text!.ToString() };
                if (!_socket.Send(_wire.Write([Encoding.ASCII.GetBytes(item.Type)], item.Type, item.Parent, content))) return;
            }
        }
    }

    /// <returns>The next message that need not stay open any longer; null when all is sent and the queue closed.</returns>
    private Item? Next()
    {
        lock (_queue)
        {
            while (true)
            {
                if (_queue.Count == 0)
                {
                    if (_closed) return null;
                    Monitor.Wait(_queue);
                    continue;
                }
                var head = _queue.Peek();
                var open = OpenMilliseconds - (Environment.TickCount64 - head.Opened);
                if (head == _last && head.Text is { Length: < OpenCharacters } && open > 0 && !_closed)
                {
                    Monitor.Wait(_queue, (int)open);
                    continue;
                }
                if (head == _last) _last = null;
                if (head.Text is { } text) _queuedCharacters -= text.Length;
                return _queue.Dequeue();
            }
        }
    }
}
