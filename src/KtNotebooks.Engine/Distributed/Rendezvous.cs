using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace KtNotebooks.Distributed;

/// <summary>
/// How ranks come to be connected with rank 0 by TCP. Each says what it is: a word that strangers do not know, how many ranks it thinks there are, its number,
/// and what the connection is for.
/// </summary>
internal static class Rendezvous
{
    /// <summary>What a connection is for.</summary>
    public const int Data = 0, Watch = 1;

    private const int WordBytes = 32;
    private static readonly TimeSpan Attempt = TimeSpan.FromSeconds(2), Pause = TimeSpan.FromMilliseconds(200), HelloTime = TimeSpan.FromSeconds(5);

    /// <summary>Listens on all addresses of this host.</summary>
    /// <param name="port">0: any that is free.</param>
    /// <param name="otherwise">What to do where it is taken.</param>
    public static Socket Listen(int port, string otherwise = "")
    {
        var listener = new Socket(AddressFamily.InterNetworkV6, SocketType.Stream, ProtocolType.Tcp) { DualMode = true };
        try
        {
            listener.Bind(new IPEndPoint(IPAddress.IPv6Any, port));
            listener.Listen(1024);
            return listener;
        }
        catch (SocketException error)
        {
            listener.Dispose();
            throw new IOException($"rank 0 cannot listen at port {port}: {error.Message}; {otherwise}");
        }
    }

    /// <summary>On rank 0: a connection a rank, its own place null.</summary>
    /// <param name="word">What all know.</param>
    /// <param name="purposes">Connections a rank.</param>
    /// <param name="cancel">Looked at several times a second.</param>
    public static Socket?[][] Accept(Socket listener, string word, int world, int purposes, TimeSpan patience, CancellationToken cancel)
    {
        var met = Enumerable.Range(0, purposes).Select(_ => new Socket?[world]).ToArray();
        var (watch, missing) = (Stopwatch.StartNew(), purposes * (world - 1));
        while (missing > 0)
        {
            cancel.ThrowIfCancellationRequested();
            if (!listener.Poll(Pause, SelectMode.SelectRead))
            {
                if (watch.Elapsed < patience) continue;
                var ranks = Enumerable.Range(1, world - 1).Where(r => met.Any(of => of[r] is null)).ToArray();
                var names = string.Join(", ", ranks.Take(8)) + (ranks.Length > 8 ? $" and {ranks.Length - 8} more" : "");
                throw new IOException($"rank 0 waited {patience.TotalSeconds:0} s for {(ranks.Length == 1 ? "rank" : "ranks")} {names} of {world} at port "
                    + $"{((IPEndPoint)listener.LocalEndPoint!).Port}: did they start, and can they reach this host?");
            }
            var socket = listener.Accept();
            if (Hello(socket, word, world, met, out var refusal) is not { } at)
            {
                socket.Dispose();
                if (refusal is not null) throw new IOException(refusal);
                continue;
            }
            socket.NoDelay = true;
            socket.ReceiveTimeout = 0;
            met[at.Purpose][at.Rank] = socket;
            missing--;
        }
        return met;
    }

    /// <summary>On the other ranks: a connection to rank 0 at any of its addresses.</summary>
    public static Socket Connect(IReadOnlyList<string> hosts, int port, string word, int world, int rank, int purpose, TimeSpan patience,
        CancellationToken cancel)
    {
        var watch = Stopwatch.StartNew();
        var last = "";
        while (true)
        {
            foreach (var host in hosts)
            {
                var socket = new Socket(SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
                try
                {
                    using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancel);
                    limit.CancelAfter(Attempt);
                    socket.ConnectAsync(host, port, limit.Token).AsTask().GetAwaiter().GetResult();
                    var hello = new byte[WordBytes + (3 * sizeof(int))];
                    Encoding.ASCII.GetBytes(Word(word), hello);
                    BinaryPrimitives.WriteInt32LittleEndian(hello.AsSpan(WordBytes), world);
                    BinaryPrimitives.WriteInt32LittleEndian(hello.AsSpan(WordBytes + 4), rank);
                    BinaryPrimitives.WriteInt32LittleEndian(hello.AsSpan(WordBytes + 8), purpose);
                    SocketCollective.SendAll(socket, hello);
                    return socket;
                }
                catch (Exception error) when (error is SocketException or OperationCanceledException)
                {
                    socket.Dispose();
                    cancel.ThrowIfCancellationRequested();
                    last = error is SocketException ? error.Message : "no answer";
                }
            }
            if (watch.Elapsed > patience)
                throw new IOException($"rank {rank} of {world} tried for {patience.TotalSeconds:0} s to reach rank 0 at {string.Join(", ", hosts)} "
                    + $"port {port}: {last}; did rank 0 start, and is MASTER_ADDR its host?");
            cancel.WaitHandle.WaitOne(Pause);
        }
    }

    /// <summary>Who a connection is from; null: a stranger, or somebody who must be refused.</summary>
    private static (int Purpose, int Rank)? Hello(Socket socket, string word, int world, Socket?[][] met, out string? refusal)
    {
        refusal = null;
        var hello = new byte[WordBytes + (3 * sizeof(int))];
        try
        {
            socket.ReceiveTimeout = (int)HelloTime.TotalMilliseconds;
            SocketCollective.ReceiveAll(socket, hello);
        }
        catch (Exception error) when (error is SocketException or IOException)
        {
            return null;
        }
        if (Encoding.ASCII.GetString(hello, 0, WordBytes) != Word(word)) return null;
        int Number(int at) => BinaryPrimitives.ReadInt32LittleEndian(hello.AsSpan(WordBytes + (4 * at)));
        var (theirs, rank, purpose) = (Number(0), Number(1), Number(2));
        if (theirs != world) refusal = $"rank {rank} thinks that there are {theirs} ranks, rank 0 that there are {world}: WORLD_SIZE must be the same for all";
        else if (rank < 1 || rank >= world || purpose < 0 || purpose >= met.Length) return null;
        else if (met[purpose][rank] is not null) refusal = $"two processes say that they are rank {rank}: RANK must be another for each";
        return refusal is null ? (purpose, rank) : null;
    }

    private static string Word(string word) => ("kt " + word).PadRight(WordBytes)[..WordBytes];
}
