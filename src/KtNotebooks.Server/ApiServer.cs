using System.Net;
using System.Net.Sockets;

using KtNotebooks.Server.Http;

using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace KtNotebooks.Server;

/// <summary>
/// An engine behind HTTP: `kt api`, notebooks and tests start it. Ends politely: new requests are refused, those in the making are answered, then it stops.
/// </summary>
public sealed class ApiServer : IAsyncDisposable
{
    /// <summary>Bytes of a too large body that are read, and nothing more.</summary>
    private const long Drained = 64 << 20;

    private readonly WebApplication _app;
    private readonly ModelEngine _engine;
    private readonly ApiSettings _settings;

    private readonly Endpoints _endpoints;

    private ApiServer(WebApplication app, ModelEngine engine, ApiSettings settings, Endpoints endpoints) =>
        (_app, _engine, _settings, _endpoints) = (app, engine, settings, endpoints);

    /// <summary>Where it is: `http://127.0.0.1:8000`.</summary>
    public Uri Url => new(_app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.First()
        .Replace("[::]", "localhost", StringComparison.Ordinal).Replace("0.0.0.0", "127.0.0.1", StringComparison.Ordinal));

    /// <summary>Starts to listen.</summary>
    /// <param name="engine">Not owned.</param>
    /// <param name="settings">Null: defaults.</param>
    /// <param name="log">A line a request, and what goes wrong; null: as <see cref="ApiSettings.LogsToConsole"/> says.</param>
    /// <exception cref="IOException">The port is taken, or the address is none of this machine.</exception>
    public static async Task<ApiServer> StartAsync(ModelEngine engine, ApiSettings? settings = null, ILoggerProvider? log = null)
    {
        ArgumentNullException.ThrowIfNull(engine);
        settings ??= new ApiSettings();
        var builder = WebApplication.CreateSlimBuilder(new WebApplicationOptions { Args = [] });
        builder.Logging.ClearProviders();
        if (log is not null) builder.Logging.AddProvider(log);
        else if (settings.LogsToConsole) builder.Logging.AddSimpleConsole(o => (o.SingleLine, o.TimestampFormat) = (true, "HH:mm:ss "));
        builder.Logging.AddFilter("Microsoft", LogLevel.Warning);
        builder.Logging.AddFilter("Microsoft.Extensions.Hosting", LogLevel.None); // that it does not start is thrown, and told in one line
        builder.WebHost.UseSetting(WebHostDefaults.ServerUrlsKey, "");
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Limits.MaxRequestBodySize = settings.MaxBody + Drained; // up to there it is read and thrown away, so that its client hears what is wrong
            kestrel.Limits.MaxConcurrentConnections = engine.Settings.Slots + engine.Settings.Waiting + 1024;
            kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(15);
            kestrel.Listen(AddressOf(settings.Host), settings.Port);
        });
        // A token goes from the thread that made its event straight to the socket: no handler here waits without giving its thread back.
        builder.WebHost.UseSockets(sockets => sockets.UnsafePreferInlineScheduling = true);
        var app = builder.Build();
        var endpoints = new Endpoints(engine, settings, app.Services.GetRequiredService<ILoggerFactory>().CreateLogger("kt"));
        endpoints.Map(app);
        app.MapFallback("/{**path}", endpoints.NotFound);
        try
        {
            await app.StartAsync();
        }
        catch (Exception error) when (error is IOException or SocketException)
        {
            await app.DisposeAsync();
            throw CannotListen(settings, error.InnerException ?? error);
        }
        return new ApiServer(app, engine, settings, endpoints);
    }

    /// <summary>Says before a model is loaded, which takes its time, that nothing could be listened on.</summary>
    /// <exception cref="IOException">As <see cref="StartAsync"/>.</exception>
    public static void RequireFree(ApiSettings settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        var address = AddressOf(settings.Host);
        try
        {
            using var socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            socket.Bind(new IPEndPoint(address, settings.Port));
        }
        catch (SocketException error)
        {
            throw CannotListen(settings, error);
        }
    }

    /// <summary>Until it is cancelled; then answers what is in the making, and stops.</summary>
    public async Task RunAsync(CancellationToken cancel)
    {
        try
        {
            await Task.Delay(System.Threading.Timeout.Infinite, cancel);
        }
        catch (OperationCanceledException)
        {
            await StopAsync();
        }
    }

    /// <summary>Refuses new requests, waits for those that there are, and stops to listen.</summary>
    public async Task StopAsync()
    {
        using var patience = new CancellationTokenSource(_settings.Drain);
        await _engine.DrainAsync(patience.Token);
        using var atOnce = new CancellationTokenSource(TimeSpan.FromSeconds(2));
        await _app.StopAsync(atOnce.Token);
    }

    public async ValueTask DisposeAsync()
    {
        _endpoints.Dispose();
        await _app.DisposeAsync();
    }

    private static IOException CannotListen(ApiSettings settings, Exception error) => new($"{settings.Host}:{settings.Port} cannot be listened on: "
        + $"{error.Message.TrimEnd('.')}; api_port=NUMBER takes another port", error);

    private static IPAddress AddressOf(string host)
    {
        if (host == "localhost") return IPAddress.Loopback;
        if (IPAddress.TryParse(host, out var address)) return address;
        try
        {
            return Dns.GetHostAddresses(host) is [var first, ..] ? first : throw new IOException($"api_host: '{host}' is no address of this machine");
        }
        catch (SocketException error)
        {
            throw new IOException($"api_host: '{host}' is no address of this machine", error);
        }
    }
}
