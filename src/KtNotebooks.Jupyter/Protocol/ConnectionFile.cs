using System.Text.Json;
using System.Text.Json.Serialization;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>The file in which the client says where the kernel must listen and with which key both sign.</summary>
internal sealed record ConnectionFile
{
    [JsonPropertyName("transport")] public string Transport { get; init; } = "tcp";
    [JsonPropertyName("ip")] public string Ip { get; init; } = "127.0.0.1";
    [JsonPropertyName("shell_port")] public required int ShellPort { get; init; }
    [JsonPropertyName("control_port")] public required int ControlPort { get; init; }
    [JsonPropertyName("stdin_port")] public required int StdinPort { get; init; }
    [JsonPropertyName("iopub_port")] public required int IoPubPort { get; init; }
    [JsonPropertyName("hb_port")] public required int HeartbeatPort { get; init; }
    /// <summary>Empty: messages are not signed.</summary>
    [JsonPropertyName("key")] public string Key { get; init; } = "";
    [JsonPropertyName("signature_scheme")] public string SignatureScheme { get; init; } = "hmac-sha256";

    public string Endpoint(int port) => Transport switch
    {
        "tcp" => $"tcp://{Ip}:{port}",
        "ipc" => $"ipc://{Ip}-{port}",
        _ => throw new NotSupportedException($"[connection file] transport must be tcp or ipc, but is {Transport}"),
    };

    public static ConnectionFile Read(string path)
    {
        if (!File.Exists(path)) throw new FileNotFoundException($"[connection file] {path} does not exist; Jupyter writes it when it starts the kernel", path);
        try
        {
            using var stream = File.OpenRead(path);
            return JsonSerializer.Deserialize(stream, ConnectionJson.Default.ConnectionFile) ?? throw new JsonException("it is empty");
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"[connection file] {path}: {e.Message}", e);
        }
    }
}

[JsonSerializable(typeof(ConnectionFile))]
internal sealed partial class ConnectionJson : JsonSerializerContext;
