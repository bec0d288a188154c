using System.Text;
using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>
/// Everything the kernel broadcasts, sent by one thread in the order in which it was posted.
/// Printed text is joined in the queue: the last stream message stays open for up to 60 ms or 8 kB, so 2,000 small prints become a
/// handful of messages and stay below Jupyter's limit of 1,000 a second.
/// What cells put out waits for room, here and in libzmq: a cell that prints or draws without end is as fast as its reader, and its memory is bounded.
/// Posting is done in finally blocks, where the runtime delivers no abort: interrupting a cell can never leave the queue half changed.
/// </summary>
internal sealed class IoPub
{
    private const int OpenMilliseconds = 60, OpenCharacters = 8 * 1024, CloseMilliseconds = 2000;
    private const int PieceCharacters = 1 << 20;
    private const long MaxQueued = 32L << 20, MaxMessage = 32L << 20;

    private readonly Wire _wire;
    private readonly ZmqSocket _socket;
    private readonly Thread _sender;
    private readonly Queue<Item> _queue = [];
    private Item? _last;
    private long _queued;
    private bool _closed;

    private sealed class Item
    {
        public required string Type { get; init; }
        public required byte[]? Parent { get; init; }

        /// <summary>JSON; null for a stream.</summary>
        public byte[]? Content { get; init; }

        public StringBuilder? Text { get; init; }
        public string? Stream { get; init; }
        public long Opened { get; } = Environment.TickCount64;

        /// <summary>Bytes or characters that it holds.</summary>
        public long Size => Content?.Length ?? Text!.Length;
    }

    internal IoPub(Wire wire, ZmqSocket socket)
    {
        (_wire, _socket) = (wire, socket);
        _sender = new Thread(Send) { IsBackground = true, Name = "iopub" };
        _sender.Start();
    }

    /// <summary>For what the kernel says itself; never waits.</summary>
    internal void Post(string type, byte[]? parent, JsonObject content)
    {
        var item = new Item { Type = type, Parent = parent, Content = Wire.Bytes(content) };
        Enqueue(item);
    }

    internal void Status(string state, byte[]? parent) => Post("status", parent, new JsonObject { ["execution_state"] = state });

    /// <summary>For what cells show: waits for room; what is too large for any front end is replaced by a line that says so.</summary>
    internal void Show(string type, byte[]? parent, JsonObject content, long size)
    {
        var bytes = size > MaxMessage ? null : Wire.Bytes(content);
        if (bytes is null || bytes.LongLength > MaxMessage)
        {
            Write("stderr", parent,
                $"[kernel] {type}: {(bytes?.LongLength ?? size) / 1e6:N0} MB are not shown; {MaxMessage / 1e6:N0} MB are the most. Write such data to a "
                    + "file\n");
            return;
        }
        AwaitRoom();
        Enqueue(new Item { Type = type, Parent = parent, Content = bytes });
    }

    internal void Write(string stream, byte[]? parent, string text)
    {
        for (var at = 0; at < text.Length;)
        {
            var length = Math.Min(PieceCharacters, text.Length - at);
            if (at + length < text.Length && char.IsHighSurrogate(text[at + length - 1])) length--;
            WritePiece(stream, parent, text.AsMemory(at, length));
            at += length;
        }
    }

    /// <summary>Sends what is queued, unless a reader stands still, and ends the thread.</summary>
    internal void Close()
    {
        lock (_queue)
        {
            _closed = true;
            Monitor.Pulse(_queue);
        }
        _sender.Join(CloseMilliseconds);
    }

    private void WritePiece(string stream, byte[]? parent, ReadOnlyMemory<char> text)
    {
        AwaitRoom();
        try { }
        finally
        {
            lock (_queue)
            {
                if (_last is { Text: { } open } last && last.Stream == stream && last.Parent == parent && open.Length < OpenCharacters)
                {
                    _queued += text.Length;
                    open.Append(text);
                    if (open.Length >= OpenCharacters) Monitor.Pulse(_queue);
                }
                else
                {
                    Add(new Item { Type = "stream", Parent = parent, Stream = stream, Text = new StringBuilder().Append(text) });
                }
            }
        }
    }

    private void AwaitRoom()
    {
        while (Volatile.Read(ref _queued) > MaxQueued && !_closed) Thread.Sleep(5);
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
        _queued += item.Size;
        _last = item;
        Monitor.Pulse(_queue);
    }

    private void Send()
    {
        using (_socket)
        {
            while (Next() is { } item)
            {
                var content = item.Content ?? Wire.Bytes(new JsonObject { ["name"] = item.Stream, ["text"] = item.Text!.ToString() });
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
                    _socket.BePatient(true); // all caught up
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
                _queued -= head.Size;
                return _queue.Dequeue();
            }
        }
    }
}
