using System.Buffers.Binary;
using System.Net.Sockets;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace KtNotebooks.Distributed;

/// <summary>
/// Ranks without MPI, each with a connection to rank 0, which gathers, adds in the order of the ranks and sends back. Enough for what is small, and for the
/// adapters of a few ranks; rank 0's network carries N − 1 times the bytes.
/// </summary>
/// <param name="peers">On rank 0 a socket a rank, its own null; on the others the socket to rank 0 at place 0.</param>
internal sealed class SocketCollective(int rank, int world, Socket?[] peers) : HostCollective
{
    private float[] _received = [];

    public override int Rank => rank;

    public override int World => world;

    public override string Carrier => "TCP";

    protected override byte[][] Gather(byte[] mine)
    {
        var all = new byte[world][];
        all[rank] = mine;
        if (rank > 0)
        {
            Send(peers[0]!, mine);
            for (var r = 0; r < world; r++) all[r] = Receive(peers[0]!);
            return all;
        }
        for (var r = 1; r < world; r++) all[r] = Receive(peers[r]!);
        for (var r = 1; r < world; r++)
            foreach (var bytes in all) Send(peers[r]!, bytes);
        return all;
    }

    protected override void Sum(Span<float> values)
    {
        var bytes = MemoryMarshal.AsBytes(values);
        if (rank > 0)
        {
            SendAll(peers[0]!, bytes);
            ReceiveAll(peers[0]!, bytes);
            return;
        }
        if (_received.Length < values.Length) _received = new float[values.Length];
        var other = _received.AsSpan(0, values.Length);
        for (var r = 1; r < world; r++)
        {
            ReceiveAll(peers[r]!, MemoryMarshal.AsBytes(other));
            TensorPrimitives.Add(values, other, values);
        }
        for (var r = 1; r < world; r++) SendAll(peers[r]!, bytes);
    }

    protected override void Close()
    {
        foreach (var peer in peers) peer?.Dispose();
    }

    private static void Send(Socket to, byte[] bytes)
    {
        Span<byte> length = stackalloc byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(length, bytes.Length);
        SendAll(to, length);
        SendAll(to, bytes);
    }

    private static byte[] Receive(Socket from)
    {
        Span<byte> length = stackalloc byte[sizeof(int)];
        ReceiveAll(from, length);
        var bytes = new byte[BinaryPrimitives.ReadInt32LittleEndian(length)];
        ReceiveAll(from, bytes);
        return bytes;
    }

    internal static void SendAll(Socket to, ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0) bytes = bytes[to.Send(bytes, SocketFlags.None)..];
    }

    /// <exception cref="IOException">The other side has gone.</exception>
    internal static void ReceiveAll(Socket from, Span<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            var count = from.Receive(bytes, SocketFlags.None);
            if (count == 0) throw new IOException("the connection to another rank has ended");
            bytes = bytes[count..];
        }
    }
}
