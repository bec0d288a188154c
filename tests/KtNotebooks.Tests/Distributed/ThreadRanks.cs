using System.Runtime.ExceptionServices;

using KtNotebooks.Distributed;
using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Distributed;

/// <summary>Ranks that are threads of this process: what a sum over ranks is, by its definition.</summary>
internal sealed class ThreadRanks : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);
    private readonly Barrier _barrier;
    private readonly object[] _given;

    private ThreadRanks(int world) => (_barrier, _given) = (new Barrier(world), new object[world]);

    /// <summary>Runs work once a rank, and returns what they return.</summary>
    public static T[] Run<T>(int world, Func<ICollective, T> work)
    {
        using var all = new ThreadRanks(world);
        var results = new T[world];
        Exception? first = null;
        Thread[] threads = [.. Enumerable.Range(0, world).Select(rank => new Thread(() =>
        {
            try
            {
                results[rank] = work(new One(all, rank, world));
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref first, error, null);
            }
        }))];
        foreach (var thread in threads) thread.Start();
        foreach (var thread in threads) thread.Join();
        if (first is not null) ExceptionDispatchInfo.Throw(first);
        return results;
    }

    public void Dispose() => _barrier.Dispose();

    private void Meet()
    {
        if (!_barrier.SignalAndWait(Patience)) throw new TimeoutException("a rank did not come: they do not call the same");
    }

    private sealed class One(ThreadRanks all, int rank, int world) : ICollective
    {
        private readonly List<Tensor> _begun = [];

        public int Rank => rank;

        public int World => world;

        public string Carrier => "threads";

        public IReadOnlyList<string> Hosts { get; } = [.. Enumerable.Range(0, world).Select(_ => "here")];

        public bool IsTimed { get; set; }

        public string? Prepare(Device device) => null;

        public void StartSum(IReadOnlyList<Tensor> tensors) => _begun.AddRange(tensors);

        public void Finish()
        {
            all._given[rank] = _begun;
            all.Meet();
            var lists = all._given.Cast<List<Tensor>>().ToArray();
            float[][] sums = [.. _begun.Select((_, i) => Sum([.. lists.Select(list => list[i].ToFloats())]))];
            all.Meet();
            for (var i = 0; i < sums.Length; i++) _begun[i].Store(sums[i]);
            all.Meet();
            _begun.Clear();
        }

        public byte[][] AllGather(ReadOnlySpan<byte> mine)
        {
            all._given[rank] = mine.ToArray();
            all.Meet();
            byte[][] given = [.. all._given.Cast<byte[]>()];
            all.Meet();
            return given;
        }

        public bool Abort(string line) => false;

        public SumFigures TakeFigures() => default;

        public void Dispose()
        {
        }

        private static float[] Sum(float[][] of)
        {
            var sum = of[0];
            foreach (var other in of[1..])
                for (var i = 0; i < sum.Length; i++) sum[i] += other[i];
            return sum;
        }
    }
}
