using System.Runtime.InteropServices;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>
/// One ZeroMQ socket: a kernel's is bound, a client's connects. It belongs to one thread at a time; <see cref="ZmqContext.Stop"/> is the only call
/// that may come from another one, and makes a blocked <see cref="Receive"/> return null.
/// </summary>
internal sealed unsafe class ZmqSocket : IDisposable
{
    private const int LingerMilliseconds = 1000;

    /// <summary>
    /// Messages of a publisher that a slow reader may leave unread before the kernel waits, and how long it does so before that reader misses some.
    /// </summary>
    private const int PublishedAhead = 64, PatienceMilliseconds = 10_000;

    private readonly bool _publishes;
    private bool _patient;
    private nint _handle;

    internal ZmqSocket(nint context, int type, string endpoint)
    {
        _handle = Zmq.zmq_socket(context, type);
        if (_handle == 0) throw new InvalidOperationException($"[zmq] cannot make a socket: {Zmq.Reason(Marshal.GetLastPInvokeError())}");
        Set(Zmq.OptionLinger, LingerMilliseconds);
        _publishes = type == Zmq.Pub;
        Set(Zmq.OptionSendHighWater, _publishes ? PublishedAhead : 0);
        if (_publishes)
        {
            Set(Zmq.OptionSendTimeout, PatienceMilliseconds);
            BePatient(true);
        }
        if (type == Zmq.Router) Set(Zmq.OptionRouterHandover, 1);
        if (type is Zmq.Dealer or Zmq.Sub)
        {
            if (type == Zmq.Sub && Zmq.zmq_setsockopt(_handle, Zmq.OptionSubscribe, null, 0) != 0 || Zmq.zmq_connect(_handle, endpoint) != 0)
                throw new InvalidOperationException($"[zmq] cannot connect to {endpoint}: {Zmq.Reason(Marshal.GetLastPInvokeError())}");
        }
        else if (Zmq.zmq_bind(_handle, endpoint) != 0)
        {
            throw new InvalidOperationException($"[zmq] cannot bind {endpoint}: {Zmq.Reason(Marshal.GetLastPInvokeError())}; is another kernel using it?");
        }
    }

    /// <summary>After this, <see cref="Receive"/> gives an empty list when nothing came for so long.</summary>
    internal void SetReceiveTimeout(int milliseconds) => Set(Zmq.OptionReceiveTimeout, milliseconds);

    /// <returns>All frames of the next message; empty when there is none in time; null when the context was stopped.</returns>
    internal List<byte[]>? Receive(bool wait = true)
    {
        var frames = new List<byte[]>();
        var message = stackalloc ulong[8];      // zmq_msg_t: 64 bytes, aligned to 8
        while (true)
        {
            _ = Zmq.zmq_msg_init(message);
            if (Zmq.zmq_msg_recv(message, _handle, wait ? 0 : Zmq.DontWait) < 0)
            {
                var error = Marshal.GetLastPInvokeError();
                _ = Zmq.zmq_msg_close(message);
                switch (error)
                {
                    case Zmq.Interrupted: continue;
                    case Zmq.Again: return [];
                    case Zmq.Terminated: return null;
                    default: throw new InvalidOperationException($"[zmq] receive failed: {Zmq.Reason(error)}");
                }
            }
            frames.Add(new ReadOnlySpan<byte>(Zmq.zmq_msg_data(message), checked((int)Zmq.zmq_msg_size(message))).ToArray());
            var more = Zmq.zmq_msg_more(message) != 0;
            _ = Zmq.zmq_msg_close(message);
            if (!more) return frames;
        }
    }

    /// <returns>False when the context was stopped.</returns>
    internal bool Send(IReadOnlyList<byte[]> frames)
    {
        for (var i = 0; i < frames.Count; i++)
        {
            fixed (byte* data = frames[i])
            {
                while (Zmq.zmq_send(_handle, data, (nuint)frames[i].Length, i + 1 < frames.Count ? Zmq.SendMore : 0) < 0)
                {
                    var error = Marshal.GetLastPInvokeError();
                    if (error == Zmq.Terminated) return false;
                    if (error == Zmq.Again && _publishes) BePatient(false); // a reader that stands still must not stop the others
                    else if (error != Zmq.Interrupted) throw new InvalidOperationException($"[zmq] send failed: {Zmq.Reason(error)}");
                }
            }
        }
        return true;
    }

    /// <summary>Whether a full queue to one reader makes <see cref="Send"/> wait (publishers, from the start) or lets that reader miss messages.</summary>
    internal void BePatient(bool patient)
    {
        if (_patient == patient) return;
        Set(Zmq.OptionPubNoDrop, patient ? 1 : 0);
        _patient = patient;
    }

    public void Dispose()
    {
        if (_handle != 0) _ = Zmq.zmq_close(_handle);
        _handle = 0;
    }

    private void Set(int option, int value)
    {
        if (Zmq.zmq_setsockopt(_handle, option, &value, sizeof(int)) != 0)
        {
            throw new InvalidOperationException($"[zmq] option {option} = {value}: {Zmq.Reason(Marshal.GetLastPInvokeError())}");
        }
    }
}

/// <summary>Owns the sockets' I/O thread. Disposing waits until every socket is closed and its last messages are out (at most the linger time).</summary>
internal sealed class ZmqContext : IDisposable
{
    private readonly nint _handle = Zmq.zmq_ctx_new();

    internal ZmqSocket Bind(int type, string endpoint) => new(_handle, type, endpoint);

    internal ZmqSocket Connect(int type, string endpoint) => new(_handle, type, endpoint);

    /// <summary>Wakes every thread that waits on a socket of this context.</summary>
    internal void Stop() => _ = Zmq.zmq_ctx_shutdown(_handle);

    public void Dispose() => _ = Zmq.zmq_ctx_term(_handle);
}
