using System.Diagnostics;

using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>Ranks with a network between them that is slow, or gone.</summary>
public sealed class NetworkTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private string[] Train(string output, params string[] pairs) => _place.Train([$"output_dir={Path.Combine(_place.Root, output)}", "plot_loss=false",
        "per_device_train_batch_size=4", .. pairs]);

    [Fact]
    public void A_slow_network_changes_nothing_but_the_time()
    {
        var port = Launched.FreePort();
        using var link = new SlowLink(port, TimeSpan.FromMilliseconds(10));
        foreach (var (output, second) in new[] { ("near", port), ("far", link.Port) })
        {
            using var first = Kt.StartWith(Launched.Variables(0, 2, "127.0.0.1", port), Train(output, "max_steps=3"));
            using var other = Kt.StartWith(Launched.Variables(1, 2, "127.0.0.1", second), Train(output, "max_steps=3"));
            first.End().RequireDone();
            other.End().RequireDone();
        }
        byte[] Adapter(string output) => File.ReadAllBytes(Path.Combine(_place.Root, output, "adapter_model.safetensors"));
        Assert.Equal(Adapter("near"), Adapter("far"));
    }

    [Fact]
    public void A_network_that_falls_silent_ends_both_sides()
    {
        var port = Launched.FreePort();
        using var link = new SlowLink(port, TimeSpan.Zero);
        EndsWhenCut(rank => Kt.StartWith([.. Launched.Variables(rank, 2, "127.0.0.1", rank == 0 ? port : link.Port), ("KT_RANK_TIMEOUT", "2")],
            Train("cut", "max_steps=100000", "save_steps=2", "save_total_limit=2")), link.Cut);
    }

    /// <summary>The same with a real cable between two machines of names and addresses of their own.</summary>
    [Fact]
    public void A_link_that_goes_down_ends_both_sides()
    {
        using var machines = new TwoMachines();
        EndsWhenCut(rank => machines.Start(rank, [.. Launched.Variables(rank, 2, TwoMachines.First, 29871), ("KT_RANK_TIMEOUT", "2")],
            Train("down", "max_steps=100000", "save_steps=2", "save_total_limit=2")), machines.Cut);
    }

    private void EndsWhenCut(Func<int, Kt> start, Action cut)
    {
        using var first = start(0);
        using var second = start(1);
        first.Until(() => Directory.GetDirectories(_place.Root).Any(folder => Checkpoints.Newest(folder) is not null));
        cut();
        var watch = Stopwatch.StartNew();
        var ends = new[] { first.End(), second.End() };
        Assert.InRange(watch.Elapsed, TimeSpan.Zero, TimeSpan.FromSeconds(10)); // the number of the issue
        for (var rank = 0; rank < 2; rank++)
        {
            Assert.Equal(4, ends[rank].Exit);
            Assert.Matches($@"^kt: rank {1 - rank} on \S+ \(process \d+\) has not been heard of for 2 s: its machine or the network to it is gone; all ranks "
                + "end, the last checkpoint is whole\n$", ends[rank].Errors);
        }
    }
}
