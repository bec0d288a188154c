using System.Net;
using System.Net.Sockets;

using KtNotebooks.Distributed;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>How ranks meet by TCP, and that one that is gone or fails is named once.</summary>
public class RankWatchTests
{
    private static readonly TimeSpan Long = TimeSpan.FromSeconds(30);

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Strangers_are_no_ranks()
    {
        using var listener = Rendezvous.Listen(0);
        var port = ((IPEndPoint)listener.LocalEndPoint!).Port;
        var met = Task.Run(() => Rendezvous.Accept(listener, "word", 2, 1, Long, Stop), TestContext.Current.CancellationToken);
        using (var stranger = new TcpClient("127.0.0.1", port)) stranger.GetStream().Write("GET / HTTP/1.1\r\nHost: somebody's browser or a scan\r\n\r\n"u8);
        using (Rendezvous.Connect(["127.0.0.1"], port, "another word", 2, 1, 0, Long, Stop)) { }
        using var rank = Rendezvous.Connect(["127.0.0.1"], port, "word", 2, 1, 0, Long, Stop);
        Assert.NotNull((await met)[0][1]);
    }

    [Theory]
    [InlineData(3, 1, 1, "rank 1 thinks that there are 3 ranks, rank 0 that there are 2: WORLD_SIZE must be the same for all")]
    [InlineData(2, 1, 2, "two processes say that they are rank 1: RANK must be another for each")]
    public async Task Ranks_that_contradict_each_other_are_told(int world, int rank, int times, string error)
    {
        using var listener = Rendezvous.Listen(0);
        var port = ((IPEndPoint)listener.LocalEndPoint!).Port;
        var met = Task.Run(() => Rendezvous.Accept(listener, "word", 2, 2, Long, Stop), TestContext.Current.CancellationToken);
        var sockets = Enumerable.Range(0, times).Select(_ => Rendezvous.Connect(["127.0.0.1"], port, "word", world, rank, 0, Long, Stop)).ToArray();
        Assert.Equal(error, (await Assert.ThrowsAsync<IOException>(() => met)).Message);
        foreach (var socket in sockets) socket.Dispose();
    }

    [Fact]
    public void Ranks_that_do_not_come_are_named()
    {
        using var listener = Rendezvous.Listen(0);
        var port = ((IPEndPoint)listener.LocalEndPoint!).Port;
        Assert.Equal($"rank 0 waited 0 s for ranks 1, 2 of 3 at port {port}: did they start, and can they reach this host?",
            Assert.Throws<IOException>(() => Rendezvous.Accept(listener, "word", 3, 1, TimeSpan.FromMilliseconds(20), Stop)).Message);
        listener.Dispose();
        Assert.StartsWith($"rank 1 of 3 tried for 0 s to reach rank 0 at 127.0.0.1 port {port}: Connection refused; did rank 0 start",
            Assert.Throws<IOException>(() => Rendezvous.Connect(["127.0.0.1"], port, "word", 3, 1, 0, TimeSpan.Zero, Stop)).Message, StringComparison.Ordinal);
    }

    /// <summary>Kubernetes kills what has not ended half a minute after SIGTERM; a person's Ctrl-C is not a wait of a minute either.</summary>
    [Fact]
    public async Task The_wait_for_others_ends_when_it_is_told_to()
    {
        using var listener = Rendezvous.Listen(0);
        using var stop = new CancellationTokenSource();
        var first = Task.Run(() => Rendezvous.Accept(listener, "word", 2, 1, Long, stop.Token), Stop);
        var other = Task.Run(() => Rendezvous.Connect(["192.0.2.1"], 1, "word", 2, 1, 0, Long, stop.Token), Stop); // an address that nobody has
        await Task.Delay(100, Stop);
        await stop.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => first.WaitAsync(TimeSpan.FromSeconds(10), Stop));
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => other.WaitAsync(TimeSpan.FromSeconds(10), Stop));
    }

    [Fact]
    public void A_rank_whose_connection_ends_is_named_and_the_others_end()
    {
        using var ranks = new Three();
        ranks.Sockets[1].Dispose();
        Assert.Equal(("rank 1 on host1 (process 1001) has ended without a word: it was killed, or its machine is gone; all ranks end, the last checkpoint "
            + "is whole", RankWatch.LostCode), ranks.EndOf(0));
        Assert.Equal(("", RankWatch.LostCode), ranks.EndOf(2));
    }

    [Fact]
    public void A_rank_that_is_silent_is_named()
    {
        using var ranks = new Three(watched: 1, patience: TimeSpan.FromSeconds(2)); // rank 2 never speaks
        Assert.Equal(("rank 2 on host2 (process 1002) has not been heard of for 2 s: its machine or the network to it is gone; all ranks end, the last "
            + "checkpoint is whole", RankWatch.LostCode), ranks.EndOf(0));
    }

    /// <summary>A rank that was stopped and goes on later must end too, and not say of the others that they are lost.</summary>
    [Fact]
    public void A_rank_that_stood_still_hears_what_was_decided()
    {
        using var ranks = new Three(watched: 1, patience: TimeSpan.FromSeconds(2)); // rank 2 stands still
        ranks.EndOf(0);
        var heard = new List<byte>();
        var one = new byte[1];
        do
        {
            SocketCollective.ReceiveAll(ranks.Sockets[2], one);
            heard.Add(one[0]);
        }
        while (heard.Count < 2 || heard[^2] == 0); // beats, then the end and its code
        Assert.Equal([3, RankWatch.LostCode], heard[^2..]);
    }

    [Fact]
    public void The_first_rank_hears_that_others_have_given_it_up()
    {
        using var ranks = new Three();
        SocketCollective.SendAll(ranks.Sockets[1], [3, RankWatch.LostCode]); // what rank 1 sends when it has not heard of rank 0 for too long
        Assert.Equal(("", RankWatch.LostCode), ranks.EndOf(0));
        Assert.Equal(("", RankWatch.LostCode), ranks.EndOf(2));
    }

    [Fact]
    public async Task An_error_of_one_rank_is_said_by_the_first_and_not_twice()
    {
        using var ranks = new Three();
        var told = Task.Run(() => ranks.Watches[2].Fail("no such file"), TestContext.Current.CancellationToken);
        Assert.Equal(("rank 2 on host2: no such file", 2), ranks.EndOf(0));
        Assert.Equal(("", 2), ranks.EndOf(1));
        Assert.True(await told);
    }

    [Fact]
    public async Task An_error_that_all_have_is_said_by_the_first_alone()
    {
        using var ranks = new Three();
        var told = Task.Run(() => ranks.Watches[1].Fail("bad config"), TestContext.Current.CancellationToken);
        Assert.False(ranks.Watches[0].Fail("bad config")); // it says the line itself
        Assert.True(await told);
        Assert.Equal(("", 2), ranks.EndOf(2));
    }

    [Fact]
    public void Ranks_that_are_done_may_go_in_any_order()
    {
        using var ranks = new Three();
        foreach (var r in (int[])[1, 0, 2])
        {
            ranks.Watches[r].Leave();
            ranks.Watches[r].Dispose();
        }
        Assert.All(ranks.Ends, end => Assert.False(end.Task.IsCompleted));
    }

    /// <summary>Three ranks in this process, the last ones maybe without a watch.</summary>
    private sealed class Three : IDisposable
    {
        private readonly Socket _listener = Rendezvous.Listen(0);

        public Three(int watched = 2, TimeSpan? patience = null)
        {
            var port = ((IPEndPoint)_listener.LocalEndPoint!).Port;
            var met = Task.Run(() => Rendezvous.Accept(_listener, "word", 3, 1, Long, Stop));
            Sockets = [_listener, .. Enumerable.Range(1, 2).Select(r => Rendezvous.Connect(["127.0.0.1"], port, "word", 3, r, 0, Long, Stop))];
            Ends = [.. Enumerable.Range(0, 3).Select(_ => new TaskCompletionSource<(string, int)>())];
            RankWatch Watch(int rank, IEnumerable<(int, string, int, Socket)> peers) =>
                new(rank, peers, patience ?? Long, (line, code) => Ends[rank].TrySetResult((line, code)));
            Watches = [Watch(0, Enumerable.Range(1, 2).Select(r => (r, $"host{r}", 1000 + r, met.Result[0][r]!))),
                .. Enumerable.Range(1, watched).Select(r => Watch(r, [(0, "host0", 1000, Sockets[r])]))];
        }

        public Socket[] Sockets { get; }

        public RankWatch[] Watches { get; }

        public TaskCompletionSource<(string Line, int Code)>[] Ends { get; }

        public (string Line, int Code) EndOf(int rank)
        {
            Assert.True(Ends[rank].Task.Wait(Long), $"rank {rank} did not end");
            return Ends[rank].Task.Result;
        }

        public void Dispose()
        {
            foreach (var watch in Watches) watch.Leave();
            foreach (var watch in Watches) watch.Dispose();
            foreach (var socket in Sockets) socket.Dispose();
        }
    }
}
