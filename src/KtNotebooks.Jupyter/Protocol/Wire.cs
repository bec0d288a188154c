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
    private const int SignedFrames = 4, Remembered = 1 << 16;
    private static readonly byte[] Delimiter = "<IDS|MSG>"u8.ToArray();
    private static readonly byte[] EmptyObject = "{}"u8.ToArray();
    private static readonly JsonDocumentOptions Strict = new() { AllowDuplicateProperties = false };
    private static readonly JsonSerializerOptions Json = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private readonly byte[] _key;
    private readonly HashAlgorithmName _hash;
    private readonly HashSet<UInt128> _seen = [];
    private readonly Queue<UInt128> _order = [];

    internal Wire(string key, string signatureScheme)
    {
        _key = Encoding.UTF8.GetBytes(key);
        _hash = signatureScheme switch
        {
            "hmac-sha256" => HashAlgorithmName.SHA256,
            "hmac-sha384" => HashAlgorithmName.SHA384,
            "hmac-sha512" => HashAlgorithmName.SHA512,
            "hmac-sha1" => HashAlgorithmName.SHA1,
            _ => throw new ArgumentOutOfRangeException(nameof(signatureScheme), signatureScheme, "[wire] no such signature scheme"),
        };
    }

    /// <summary>Of this process: clients tell a restarted kernel by it.</summary>
    internal string Session { get; } = Guid.NewGuid().ToString();

    /// <returns>
    /// Null when the frames are no signed Jupyter message, or one that was there before (somebody repeats what he has heard); such messages are dropped, as
    /// the protocol asks.
    /// </returns>
    internal Message? Read(List<byte[]> frames)
    {
        var at = frames.FindIndex(f => f.AsSpan().SequenceEqual(Delimiter));
        if (at < 0 || frames.Count < at + 2 + SignedFrames) return null;
        if (_key.Length > 0 && (!CryptographicOperations.FixedTimeEquals(Sign(frames, at + 2), frames[at + 1]) || !IsNew(frames[at + 1]))) return null;
        try
        {
            if (JsonNode.Parse(JsonText.Read(frames[at + 2]), null, Strict) is not JsonObject header
                || JsonNode.Parse(JsonText.Read(frames[at + 5]), null, Strict) is not JsonObject content) return null;
            if (header["msg_type"]?.GetValueKind() != JsonValueKind.String) return null;
            var session = header["session"]?.GetValueKind() == JsonValueKind.String ? (string)header["session"]! : "";
            return new Message([.. frames.Take(at)], frames[at + 2], (string)header["msg_type"]!, session, content) { Parent = frames[at + 3] };
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
    internal List<byte[]> Write(IEnumerable<byte[]> identities, string type, byte[]? parentHeader, JsonObject content) =>
        Write(identities, type, parentHeader, Bytes(content));

    /// <summary>The same with the content as JSON.</summary>
    internal List<byte[]> Write(IEnumerable<byte[]> identities, string type, byte[]? parentHeader, byte[] content, string? id = null)
    {
        var header = new JsonObject
        {
            ["msg_id"] = id ?? Guid.NewGuid().ToString(),
            ["session"] = Session,
            ["username"] = "kernel",
            ["date"] = DateTime.UtcNow.ToString("yyyy-MM-ddTHH:mm:ss.ffffffZ"),
            ["msg_type"] = type,
            ["version"] = ProtocolVersion,
        };
        List<byte[]> frames = [.. identities, Delimiter, []];
        var signature = frames.Count - 1;
        frames.AddRange([Bytes(header), parentHeader ?? EmptyObject, EmptyObject, content]);
        if (_key.Length > 0) frames[signature] = Sign(frames, signature + 1);
        return frames;
    }

    internal static byte[] Bytes(JsonObject node) => JsonSerializer.SerializeToUtf8Bytes(node, Json);

    /// <summary>The last 65,536 signatures are remembered, as jupyter_client does; half of a digest tells them apart.</summary>
    private bool IsNew(byte[] signature)
    {
        var half = UInt128.Parse(Encoding.ASCII.GetString(signature, 0, 32), System.Globalization.NumberStyles.AllowHexSpecifier, null);
        lock (_seen)
        {
            if (!_seen.Add(half)) return false;
            _order.Enqueue(half);
            if (_order.Count > Remembered) _seen.Remove(_order.Dequeue());
            return true;
        }
    }

    private byte[] Sign(List<byte[]> frames, int first)
    {
        using var hmac = IncrementalHash.CreateHMAC(_hash, _key);
        for (var i = first; i < first + SignedFrames; i++) hmac.AppendData(frames[i]);
        return Encoding.ASCII.GetBytes(Convert.ToHexStringLower(hmac.GetHashAndReset()));
    }
}
