using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;

namespace KtNotebooks.Distributed;

/// <summary>
/// Who is still there. Every rank has a connection to rank 0 beside those that carry data, over which both say once a second that they live. A rank that ends
/// without saying so, or is not heard of for a while, is named by rank 0 in one line, and all ranks end: what a dead rank leaves is others that wait for ever.
/// </summary>
internal sealed class RankWatch : IDisposable
{
    /// <summary>The exit code of ranks that end because another is lost.</summary>
    public const int LostCode = 4;

    /// <summary>And where one has an error.</summary>
    private const byte ErrorCode = 2;

    private const byte Alive = 0, Leaving = 1, Failing = 2, Ending = 3;
    private static readonly TimeSpan Beat = TimeSpan.FromSeconds(1), OwnWord = TimeSpan.FromMilliseconds(700), Verdict = TimeSpan.FromSeconds(12);

    private readonly int _rank;
    private readonly Peer[] _peers;
    private readonly TimeSpan _patience;
    private readonly Action<string, int> _end;
    private readonly Lock _gate = new();
    private int _hasEnded, _hasFailed;
    private volatile bool _leaves;

    /// <param name="rank">Of this process.</param>
    /// <param name="peers">On rank 0 every other rank, on the others rank 0: number, host, process, socket.</param>
    /// <param name="patience">How long nothing may be heard.</param>
    /// <param name="end">Says a line (none where it is empty) and ends the process with a code, at once.</param>
    public RankWatch(int rank, IEnumerable<(int Rank, string Host, int Process, Socket Socket)> peers, TimeSpan patience, Action<string, int> end)
    {
        (_rank, _patience, _end) = (rank, patience, end);
        _peers = [.. peers.Select(p => new Peer(p.Rank, p.Host, p.Process, p.Socket))];
        foreach (var peer in _peers)
        {
            peer.Socket.NoDelay = true;
            peer.Socket.ReceiveTimeout = (int)patience.TotalMilliseconds;
            peer.Socket.SendTimeout = (int)patience.TotalMilliseconds;
            Start(() => Listen(peer), $"kt hears rank {peer.Rank}");
        }
        Start(Speak, "kt says that it lives");
    }

    /// <summary>This rank has said that it fails.</summary>
    public bool HasFailed => _hasFailed != 0;

    /// <summary>This rank is done: its silence means nothing from now on.</summary>
    public void Leave()
    {
        _leaves = true;
        foreach (var peer in _peers) TrySend(peer, [Leaving]);
    }

    /// <summary>Says to rank 0 why this rank cannot go on; true when it was told. On rank 0 itself: it says it, and the others end without a word.</summary>
    public bool Fail(string line)
    {
        if (Interlocked.Exchange(ref _hasFailed, 1) != 0) return false;
        if (_rank == 0)
        {
            Interlocked.Exchange(ref _hasEnded, 1);
            EndOthers(ErrorCode);
            return false;
        }
        var text = Encoding.UTF8.GetBytes(line.Length <= 2000 ? line : line[..2000]);
        var message = new byte[1 + sizeof(int) + text.Length];
        message[0] = Failing;
        BinaryPrimitives.WriteInt32LittleEndian(message.AsSpan(1), text.Length);
        text.CopyTo(message, 1 + sizeof(int));
        if (!TrySend(_peers[0], message)) return false;
        return _peers[0].IsOver.Wait(_patience); // rank 0 has said it and ended
    }

    /// <summary>After something failed on the way to another rank: waits until this process has been ended with the line that names it.</summary>
    public void AwaitVerdict() => Thread.Sleep(Verdict < _patience + Beat ? _patience + Beat : Verdict);

    public void Dispose()
    {
        foreach (var peer in _peers) peer.Socket.Dispose();
    }

    private static void Start(Action work, string name) =>
        new Thread(() => work()) { IsBackground = true, Name = name, Priority = ThreadPriority.AboveNormal }.Start();

    private void Speak()
    {
        while (!_leaves && _hasEnded == 0)
        {
            foreach (var peer in _peers)
                if (!peer.IsOver.IsSet) TrySend(peer, [Alive]);
            Thread.Sleep(Beat);
        }
    }

    private void Listen(Peer peer)
    {
        Span<byte> one = stackalloc byte[1];
        try
        {
            while (true)
            {
                Hear(peer.Socket, one);
                switch (one[0])
                {
                    case Leaving:
                        peer.IsOver.Set();
                        return;
                    case Failing:
                        Report(peer, ReceiveText(peer.Socket));
                        return;
                    case Ending:
                        SocketCollective.ReceiveAll(peer.Socket, one);
                        peer.IsOver.Set();
                        Thread.Sleep(OwnWord); // a launcher ends all when the first one does: rank 0 shall have spoken
                        if (_hasFailed == 0) End("", one[0]);
                        return;
                }
            }
        }
        catch (Exception error) when (error is IOException or SocketException or ObjectDisposedException)
        {
            var silent = IsSilence(error);
            if (!silent || _leaves || _hasFailed != 0) peer.IsOver.Set(); // one that stands still hears what was decided when it goes on
            if (_leaves || _hasFailed != 0) return;
            if (_rank > 1) Thread.Sleep(OwnWord); // when rank 0 is lost, the first of the others says it for all that a launcher ends with it
            End($"rank {peer.Rank} on {peer.Host} (process {peer.Process}) "
                + (silent ? $"has not been heard of for {_patience.TotalSeconds:0.#} s: its machine or the network to it is gone"
                    : "has ended without a word: it was killed, or its machine is gone") + "; all ranks end, the last checkpoint is whole", LostCode);
        }
    }

    /// <summary>The next byte. Time in which this process itself stood still is no silence of the other: what it said meanwhile is there.</summary>
    private static void Hear(Socket from, Span<byte> one)
    {
        while (true)
        {
            try
            {
                SocketCollective.ReceiveAll(from, one);
                return;
            }
            catch (SocketException error) when (IsSilence(error) && from.Available > 0)
            {
                // Read it.
            }
        }
    }

    private static bool IsSilence(Exception error) => error is SocketException { SocketErrorCode: SocketError.TimedOut or SocketError.WouldBlock };

    /// <summary>Another rank's error. What befell all alike this rank says itself, in a moment.</summary>
    private void Report(Peer peer, string line)
    {
        Thread.Sleep(OwnWord);
        if (_hasFailed == 0) End($"rank {peer.Rank} on {peer.Host}: {line}", ErrorCode);
    }

    private void End(string line, int code)
    {
        if (Interlocked.Exchange(ref _hasEnded, 1) != 0) return;
        EndOthers((byte)code);
        _end(line, code);
    }

    /// <summary>Those that a rank has a connection to: of rank 0 all, of another rank 0, which may stand still and go on later.</summary>
    private void EndOthers(byte code)
    {
        foreach (var peer in _peers)
            if (!peer.IsOver.IsSet) TrySend(peer, [Ending, code]);
    }

    private bool TrySend(Peer peer, byte[] message)
    {
        try
        {
            lock (_gate) SocketCollective.SendAll(peer.Socket, message);
            return true;
        }
        catch (Exception error) when (error is SocketException or ObjectDisposedException)
        {
            return false; // whoever listens to it finds out
        }
    }

    private static string ReceiveText(Socket from)
    {
        var length = new byte[sizeof(int)];
        SocketCollective.ReceiveAll(from, length);
        var text = new byte[Math.Clamp(BinaryPrimitives.ReadInt32LittleEndian(length), 0, 1 << 16)];
        SocketCollective.ReceiveAll(from, text);
        return Encoding.UTF8.GetString(text);
    }

    private sealed record Peer(int Rank, string Host, int Process, Socket Socket)
    {
        public ManualResetEventSlim IsOver { get; } = new();
    }
}
