using System.Buffers.Binary;
using System.Text;

namespace KtNotebooks.Training;

/// <summary>
/// report_to: tensorboard. A file of scalar events that TensorBoard reads: TFRecord frames (length, masked CRC-32C of the length, data, masked CRC-32C of the
/// data) of Event messages (tensorflow/core/util/event.proto: wall_time 1, step 2, file_version 3, summary 5 of values with tag 1 and simple_value 2), under
/// the names that transformers gives: train/loss, eval/loss. Every event is flushed.
/// </summary>
internal sealed class EventFile : ITracker
{
    private static readonly uint[] Table = MakeTable();

    private readonly FileStream _file;

    /// <param name="folder">Gets events.out.tfevents.TIME.HOST; a resumed run adds a file, as TensorBoard expects.</param>
    public EventFile(string folder)
    {
        Directory.CreateDirectory(folder);
        var now = DateTimeOffset.UtcNow;
        var own = FormattableString.Invariant($"{Environment.ProcessId}.{now.Ticks % 1_000_000}");
        var name = FormattableString.Invariant($"events.out.tfevents.{now.ToUnixTimeSeconds()}.{Environment.MachineName}.{own}");
        _file = new FileStream(Path.Combine(folder, name), FileMode.Create, FileAccess.Write, FileShare.Read);
        Write(Message(0, [0x1A, .. Prefixed("brain.Event:2"u8)]));
    }

    /// <summary>Values of a step.</summary>
    public void Add(int step, IEnumerable<(string Tag, double Value)> values)
    {
        List<byte> summary = [];
        foreach (var (tag, value) in values)
        {
            if (!double.IsFinite(value)) continue;
            var number = new byte[4];
            BinaryPrimitives.WriteSingleLittleEndian(number, (float)value);
            summary.AddRange([0x0A, .. Prefixed([0x0A, .. Prefixed(Encoding.UTF8.GetBytes(tag)), 0x15, .. number])]);
        }
        if (summary.Count > 0) Write(Message(step, [0x2A, .. Prefixed([.. summary])]));
    }

    public void Dispose() => _file.Dispose();

    private static byte[] Message(long step, byte[] content)
    {
        var time = new byte[8];
        BinaryPrimitives.WriteDoubleLittleEndian(time, DateTimeOffset.UtcNow.ToUnixTimeMilliseconds() / 1e3);
        return [0x09, .. time, 0x10, .. Varint((ulong)step), .. content];
    }

    private void Write(byte[] data)
    {
        Span<byte> head = stackalloc byte[12], tail = stackalloc byte[4];
        BinaryPrimitives.WriteUInt64LittleEndian(head, (ulong)data.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(head[8..], Masked(head[..8]));
        BinaryPrimitives.WriteUInt32LittleEndian(tail, Masked(data));
        _file.Write(head);
        _file.Write(data);
        _file.Write(tail);
        _file.Flush();
    }

    private static byte[] Prefixed(ReadOnlySpan<byte> bytes) => [.. Varint((ulong)bytes.Length), .. bytes];

    private static byte[] Varint(ulong value)
    {
        List<byte> bytes = [];
        for (; value > 0x7F; value >>= 7) bytes.Add((byte)(value | 0x80));
        bytes.Add((byte)value);
        return [.. bytes];
    }

    /// <summary>CRC-32C, rotated by 15 bits and moved, as TFRecord stores it.</summary>
    private static uint Masked(ReadOnlySpan<byte> bytes)
    {
        var crc = uint.MaxValue;
        foreach (var b in bytes) crc = Table[(crc ^ b) & 0xFF] ^ (crc >> 8);
        crc = ~crc;
        return ((crc >> 15) | (crc << 17)) + 0xA282EAD8;
    }

    private static uint[] MakeTable()
    {
        var table = new uint[256];
        for (uint i = 0; i < 256; i++)
        {
            var crc = i;
            for (var bit = 0; bit < 8; bit++) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82F63B78 : crc >> 1;
            table[i] = crc;
        }
        return table;
    }
}
