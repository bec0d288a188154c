using System.Runtime;

using KtNotebooks.Interop;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>Managed loops on the native pool: what callers, threads and faults may do to each other.</summary>
[Collection("cpu variant")]
public sealed class CpuLoopTests
{
    private const int Threads = 3;
    private static readonly AsyncLocal<int> Flowing = new();

    public static TheoryData<string> Variants => ["avx2", Cpu.Plain];

    [Theory, MemberData(nameof(Variants))]
    public void Every_index_runs_once_and_on_several_threads(string variant)
    {
        using var on = On(variant);
        foreach (var count in (int[])[0, 1, 2, 7, 1000])
        {
            var runs = new int[count];
            CpuLoop.For(count, i => Interlocked.Increment(ref runs[i]));
            Assert.All(runs, r => Assert.Equal(1, r));
        }
        using var all = new Barrier(Threads); // tasks that wait for each other end only where as many threads run them
        CpuLoop.For(Threads, _ => Assert.True(all.SignalAndWait(TimeSpan.FromMinutes(1))));
    }

    [Fact]
    public void Callers_from_many_threads_get_all_of_their_own_work_done()
    {
        using var on = On("avx2");
        Thread[] callers = [.. Enumerable.Range(0, 24).Select(caller => new Thread(() => // more than the pool has places for
        {
            for (var repeat = 1; repeat <= 100; repeat++)
            {
                long sum = 0;
                CpuLoop.For(repeat, i => Interlocked.Add(ref sum, i + caller));
                if (sum != ((long)repeat * (repeat - 1) / 2) + (repeat * caller)) throw new InvalidOperationException($"{repeat} tasks gave {sum}");
            }
        }))];
        foreach (var caller in callers) caller.Start();
        for (var threads = 1; threads < 6; threads++) Cpu.Use("avx2", threads); // the pool is replaced under them
        foreach (var caller in callers) caller.Join();
    }

    [Theory, MemberData(nameof(Variants))]
    public void What_a_body_throws_comes_to_the_caller_and_the_pool_goes_on(string variant)
    {
        using var on = On(variant);
        for (var bad = 0; bad < 40; bad++)
        {
            var error = Record.Exception(() => CpuLoop.For(40, i =>
            {
                if (i == bad) throw new InvalidDataException($"row {i}");
            }));
            Assert.Equal($"row {bad}", (error is AggregateException all ? all.InnerException : error)?.Message);
        }
        var count = 0;
        CpuLoop.For(100, _ => Interlocked.Increment(ref count));
        Assert.Equal(100, count);
    }

    [Fact]
    public void A_loop_in_a_loop_runs_in_its_own_thread()
    {
        using var on = On("avx2");
        var others = 0;
        CpuLoop.For(50, _ =>
        {
            var mine = Environment.CurrentManagedThreadId;
            CpuLoop.For(50, _ => Interlocked.Add(ref others, Environment.CurrentManagedThreadId == mine ? 0 : 1));
        });
        Assert.Equal(0, others);
        Assert.Contains("by one of them at work", Assert.ThrowsAny<Exception>(() => CpuLoop.For(8, _ => Cpu.Use("avx2", 2))).ToString(),
            StringComparison.Ordinal);
    }

    [Fact]
    public void What_flows_with_the_caller_is_seen_by_all_threads()
    {
        using var on = On("avx2");
        Flowing.Value = 7;
        using var all = new Barrier(Threads);
        CpuLoop.For(Threads, _ =>
        {
            all.SignalAndWait(TimeSpan.FromMinutes(1));
            Assert.Equal(7, Flowing.Value);
            Flowing.Value = 8; // stays with the task
        });
    }

    /// <summary>As a notebook's kernel does it; in a callback below native frames it would end the process.</summary>
    [Fact]
    public void The_caller_may_be_aborted_in_its_own_body()
    {
        using var on = On("avx2");
        using var abort = new CancellationTokenSource();
        var caller = Environment.CurrentManagedThreadId;
#pragma warning disable SYSLIB0046 // what the kernel uses
        Assert.Throws<OperationCanceledException>(() => ControlledExecution.Run(
            () => CpuLoop.For(1 << 20, _ =>
            {
                if (Environment.CurrentManagedThreadId != caller) return;
                abort.Cancel();
                while (true) Thread.Sleep(1);
            }),
            abort.Token));
#pragma warning restore SYSLIB0046
        var count = 0;
        CpuLoop.For(100, _ => Interlocked.Increment(ref count));
        Assert.Equal(100, count);
    }

    private static OnVariant On(string variant) => new(variant, Threads);
}
