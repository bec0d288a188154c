using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>
/// The wire format: identities…, &lt;IDS|MSG&gt;, signature, header, parent header, metadata, content, buffers….
/// The signature is the hexadecimal HMAC of the four JSON frames; it is checked in constant time before anything is parsed.
/// </summary>
internal sealed class Wire
{
    internal const string ProtocolVersion = "5.3";
    private const int SignedFrames = 4;
    private static readonly byte[] Delimiter = "<IDS|MSG>"u8.ToArray();
    private static readonly byte[] EmptyObject = "{}"u8.ToArray();
    private static readonly JsonSerializerOptions Json = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly byte[] _key;
    private readonly HashAlgorithmName _hash;

    internal Wire(string key, string signatureScheme)
    {
        _key = Encoding.UTF8.GetBytes(key);
        _hash = signatureScheme switch
        {
            "hmac-sha256" => HashAlgorithmName.SHA256,
            "hmac-sha384" => HashAlgorithmName.SHA384,
            "hmac-sha512" => HashAlgorithmName.SHA512,
            "hmac-sha1" => HashAlgorithmName.SHA1,
            _ => throw new NotSupportedException($"[connection file] signature_scheme {signatureScheme}: expected hmac-sha256, -sha384, -sha512 or -sha1"),
        };
    }

    /// <summary>Of this process: clients tell a restarted kernel by it.</summary>
    internal string Session { get; } = Guid.NewGuid().ToString();

    /// <returns>Null when the frames are no signed Jupyter message; such messages are dropped, as the protocol asks.</returns>
    internal Message? Read(List<byte[]> frames)
    {
        var at = frames.FindIndex(f => f.AsSpan().SequenceEqual(Delimiter));
        if (at < 0 || frames.Count < at + 2 + SignedFrames) return null;
        if (_key.Length > 0 && !CryptographicOperations.FixedTimeEquals(Sign(frames, at + 2), frames[at + 1])) return null;
        try
        {
            if (JsonNode.Parse(frames[at + 2]) is not JsonObject header || JsonNode.Parse(frames[at + 5]) is not JsonObject content) return null;
            if (header["msg_type"]?.GetValueKind() != JsonValueKind.String) return null;
            var session = header["session"]?.GetValueKind() == JsonValueKind.String ? (string)header["session"]! : "";
            return new Message([.. frames.Take(at)], frames[at + 2], (string)header["msg_type"]!, session, content);
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>
    /// The frames of a message. <paramref name="identities"/>: of the client, for a ROUTER; the topic, for a PUB.
    /// <paramref name="parentHeader"/>: the request's header verbatim, or null.
    /// </summary>
    internal List<byte[]> Write(IEnumerable<byte[]> identities, string type, byte[]? parentHeader, JsonObject content)
    {
        var header = new JsonObject
        {
            ["msg_id"] = Guid.NewGuid().ToString(),
            ["session"] = Session,
            ["username"] = "kernel",
            ["date"] = DateTime.UtcNow.ToString("yyyy-MM-ddTHH:mm:ss.ffffffZ"),
            ["msg_type"] = type,
            ["version"] = ProtocolVersion,
        };
        List<byte[]> frames = [.. identities, Delimiter, []];
        var signature = frames.Count - 1;
        frames.AddRange([Bytes(header), parentHeader ?? EmptyObject, EmptyObject, Bytes(content)]);
        if (_key.Length > 0) frames[signature] = Sign(frames, signature + 1);
        return frames;
    }

    private static byte[] Bytes(JsonObject node) => JsonSerializer.SerializeToUtf8Bytes(node, Json);

    private byte[] Sign(List<byte[]> frames, int first)
    {
        using var hmac = IncrementalHash.CreateHMAC(_hash, _key);
        for (var i = first; i < first + SignedFrames; i++) hmac.AppendData(frames[i]);
        return Encoding.ASCII.GetBytes(Convert.ToHexStringLower(hmac.GetHashAndReset()));
    }
}
