using System.Numerics.Tensors;
using System.Runtime.InteropServices;

using KtNotebooks.Interop.Mpi;

namespace KtNotebooks.Distributed;

/// <summary>
/// Ranks under Open MPI. A sum is a reduction of slices and a distribution of what they come to, both by messages between every two ranks: rank r gets
/// everyone's slice r, adds them in the order of the ranks, and sends the result to all. 2 (N − 1) / N of the bytes go out of every rank, the least that is
/// possible, and the bits depend on nothing but N: not on MPI's algorithms, which change with sizes and networks.
/// </summary>
internal sealed unsafe class MpiCollective : HostCollective
{
    private const int SliceTag = 1, ResultTag = 2;
    private int _rank, _world;
    private float[] _slices = [];
    private nint[] _requests = [];

    /// <summary>Starts MPI; every rank must.</summary>
    public MpiCollective()
    {
        try
        {
            Await(Post(() =>
            {
                Mpi.Load();
                Mpi.Start();
                int rank, world;
                Mpi.Ok(Mpi.MPI_Comm_rank(Mpi.World, &rank));
                Mpi.Ok(Mpi.MPI_Comm_size(Mpi.World, &world));
                (_rank, _world, _requests) = (rank, world, GC.AllocateArray<nint>(2 * world, pinned: true));
            }));
        }
        catch
        {
            StopThread();
            throw;
        }
    }

    public override int Rank => _rank;

    public override int World => _world;

    public override string Carrier => "MPI";

    protected override byte[][] Gather(byte[] mine)
    {
        var (lengths, offsets) = (new int[_world], new int[_world]);
        var length = mine.Length;
        fixed (int* all = lengths)
        {
            Mpi.Ok(Mpi.MPI_Iallgather(&length, sizeof(int), Mpi.Byte, all, sizeof(int), Mpi.Byte, Mpi.World, Request(0)));
            Wait(1);
        }
        for (var r = 1; r < _world; r++) offsets[r] = checked(offsets[r - 1] + lengths[r - 1]);
        var bytes = new byte[Math.Max(1, checked(offsets[^1] + lengths[^1]))];
        fixed (byte* from = mine, to = bytes)
        fixed (int* counts = lengths, places = offsets)
        {
            Mpi.Ok(Mpi.MPI_Iallgatherv(from, length, Mpi.Byte, to, counts, places, Mpi.Byte, Mpi.World, Request(0)));
            Wait(1);
        }
        return [.. lengths.Zip(offsets, (count, at) => bytes[at..(at + count)])];
    }

    protected override void Sum(Span<float> values)
    {
        int From(int rank, int length) => (int)((long)length * rank / _world);
        var (first, mine) = (From(_rank, values.Length), From(_rank + 1, values.Length) - From(_rank, values.Length));
        if (_slices.Length < (long)mine * _world) _slices = new float[mine * _world];
        var count = 0;
        fixed (float* all = values, slices = _slices)
        {
            for (var r = 0; r < _world; r++)
                if (r != _rank) Mpi.Ok(Mpi.MPI_Irecv(slices + ((long)r * mine), mine, Mpi.Float, r, SliceTag, Mpi.World, Request(count++)));
            for (var r = 0; r < _world; r++)
                if (r != _rank)
                    Mpi.Ok(Mpi.MPI_Isend(all + From(r, values.Length), From(r + 1, values.Length) - From(r, values.Length), Mpi.Float, r, SliceTag, Mpi.World,
                        Request(count++)));
            Wait(count);
            var own = values.Slice(first, mine);
            own.CopyTo(_slices.AsSpan(_rank * mine, mine));
            for (var r = 1; r < _world; r++)
                TensorPrimitives.Add(r == 1 ? _slices.AsSpan(0, mine) : own, _slices.AsSpan(r * mine, mine), own);
            count = 0;
            for (var r = 0; r < _world; r++)
                if (r != _rank)
                    Mpi.Ok(Mpi.MPI_Irecv(all + From(r, values.Length), From(r + 1, values.Length) - From(r, values.Length), Mpi.Float, r, ResultTag, Mpi.World,
                        Request(count++)));
            for (var r = 0; r < _world; r++)
                if (r != _rank) Mpi.Ok(Mpi.MPI_Isend(all + first, mine, Mpi.Float, r, ResultTag, Mpi.World, Request(count++)));
            Wait(count);
        }
    }

    protected override void Close() => Mpi.Ok(Mpi.MPI_Finalize());

    private nint* Request(int number) => (nint*)Marshal.UnsafeAddrOfPinnedArrayElement(_requests, number);

    /// <summary>
    /// Until so many requests are done. A rank that computes meanwhile may have one core for both: this thread looks and sleeps, and only looks on and on when
    /// the rank waits for it.
    /// </summary>
    private void Wait(int count)
    {
        for (var looks = 0; ; looks++)
        {
            int done;
            Mpi.Ok(Mpi.MPI_Testall(count, Request(0), &done, 0));
            if (done != 0) return;
            if (IsAwaited || looks < 4) Thread.Yield();
            else Thread.Sleep(1);
        }
    }
}
