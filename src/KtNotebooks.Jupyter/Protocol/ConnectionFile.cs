using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>The file in which the client says where the kernel must listen and with which key both sign.</summary>
internal sealed record ConnectionFile(string Transport, string Ip, int ShellPort, int ControlPort, int StdinPort, int IoPubPort, int HeartbeatPort, string Key,
    string SignatureScheme)
{
    private const string What = "Jupyter's connection file";
    private const int Parsed = 1 << 20;
    private static readonly string[] Schemes = ["hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha1"];

    /// <summary>Of one of its ports.</summary>
    public string Endpoint(int port) => Transport == "tcp" ? $"tcp://{Ip}:{port}" : $"ipc://{Ip}-{port}";

    /// <summary>For a kernel of this machine: ports that are free now, and a key.</summary>
    public static ConnectionFile Choose()
    {
        var listeners = Enumerable.Range(0, 5).Select(_ => new TcpListener(IPAddress.Loopback, 0)).ToArray();
        foreach (var listener in listeners) listener.Start();
        var ports = listeners.Select(l => ((IPEndPoint)l.LocalEndpoint).Port).ToArray();
        foreach (var listener in listeners) listener.Dispose();
        return new ConnectionFile("tcp", "127.0.0.1", ports[0], ports[1], ports[2], ports[3], ports[4], Guid.NewGuid().ToString(), Schemes[0]);
    }

    public void Write(string path) => File.WriteAllText(path, new JsonObject
    {
        ["transport"] = Transport,
        ["ip"] = Ip,
        ["shell_port"] = ShellPort,
        ["control_port"] = ControlPort,
        ["stdin_port"] = StdinPort,
        ["iopub_port"] = IoPubPort,
        ["hb_port"] = HeartbeatPort,
        ["key"] = Key,
        ["signature_scheme"] = SignatureScheme,
    }.ToJsonString());

    /// <exception cref="FileNotFoundException">Nothing is there.</exception>
    /// <exception cref="InvalidDataException">It is no connection file; the key is named.</exception>
    public static ConnectionFile Read(string path)
    {
        var root = JsonSource.Parse(RegularFile.ReadAllBytes(path, What, Parsed), path);
        if (root.ValueKind != JsonValueKind.Object)
            throw Bad("", $"must be a JSON object, as Jupyter writes it when it starts a kernel, but is {JsonSource.Named(root)}");
        var transport = Text("transport", "tcp");
        if (transport is not ("tcp" or "ipc")) throw Bad("transport: ", $"must be tcp or ipc, but is '{transport}'");
        var scheme = Text("signature_scheme", Schemes[0]);
        if (!Schemes.Contains(scheme)) throw Bad("signature_scheme: ", $"must be one of {string.Join(", ", Schemes)}, but is '{scheme}'");
        var ports = (string[])["shell_port", "control_port", "stdin_port", "iopub_port", "hb_port"];
        var numbers = ports.Select(Port).ToArray();
        for (var i = 1; i < ports.Length; i++)
            if (Array.IndexOf(numbers, numbers[i]) is var first && first < i)
                throw Bad($"{ports[i]}: ", $"is {numbers[i]}, as {ports[first]} is; each needs its own");
        return new ConnectionFile(transport, Text("ip", "127.0.0.1"), numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], Text("key", ""),
            scheme);

        string Text(string name, string missing) => !root.TryGetProperty(name, out var value) ? missing
            : value.ValueKind == JsonValueKind.String ? value.GetString()! : throw Bad($"{name}: ", $"must be a text, but is {JsonSource.Named(value)}");

        int Port(string name)
        {
            if (!root.TryGetProperty(name, out var value)) throw Bad($"{name}: ", "is missing");
            var most = transport == "tcp" ? ushort.MaxValue : int.MaxValue;
            return value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var port) && port > 0 && port <= most ? port
                : throw Bad($"{name}: ", $"must be a port from 1 to {most}, but is {value.GetRawText()}");
        }

        InvalidDataException Bad(string key, string reason) => new($"[connection file] {path}: {key}{reason}");
    }
}
