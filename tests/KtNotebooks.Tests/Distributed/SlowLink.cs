using System.Net;
using System.Net.Sockets;

namespace KtNotebooks.Tests.Distributed;

/// <summary>A network between two ranks: hands every byte on a while later, until it is cut; then it is silent, as a network is whose cable is out.</summary>
internal sealed class SlowLink : IDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);
    private readonly TimeSpan _delay;
    private readonly CancellationTokenSource _stop = new();
    private volatile bool _isCut;

    /// <param name="port">Of rank 0.</param>
    /// <param name="delay">Each way.</param>
    public SlowLink(int port, TimeSpan delay)
    {
        _delay = delay;
        _listener.Start();
        _ = Accept(port);
    }

    /// <summary>Where the other rank finds rank 0.</summary>
    public int Port => ((IPEndPoint)_listener.LocalEndpoint).Port;

    public void Cut() => _isCut = true;

    public void Dispose()
    {
        _stop.Cancel();
        _listener.Dispose();
        _stop.Dispose();
    }

    private async Task Accept(int port)
    {
        try
        {
            while (true)
            {
                var from = await _listener.AcceptTcpClientAsync(_stop.Token);
                var to = new TcpClient { NoDelay = true };
                while (!to.Connected)
                {
                    try
                    {
                        await to.ConnectAsync(IPAddress.Loopback, port, _stop.Token);
                    }
                    catch (SocketException)
                    {
                        to.Dispose();
                        to = new TcpClient { NoDelay = true };
                        await Task.Delay(50, _stop.Token); // rank 0 does not listen yet
                    }
                }
                _ = Pass(from.GetStream(), to.GetStream());
                _ = Pass(to.GetStream(), from.GetStream());
            }
        }
        catch (Exception error) when (error is OperationCanceledException or ObjectDisposedException or SocketException)
        {
            // The test is over.
        }
    }

    private async Task Pass(NetworkStream from, NetworkStream to)
    {
        var buffer = new byte[1 << 16];
        try
        {
            for (int count; (count = await from.ReadAsync(buffer, _stop.Token)) > 0;)
            {
                await Task.Delay(_delay, _stop.Token);
                if (!_isCut) await to.WriteAsync(buffer.AsMemory(0, count), _stop.Token);
            }
            if (!_isCut) to.Dispose();
        }
        catch (Exception error) when (error is OperationCanceledException or ObjectDisposedException or IOException)
        {
            if (!_isCut) to.Dispose();
        }
    }
}
