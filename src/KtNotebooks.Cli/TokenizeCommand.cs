using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.Files;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Cli;

/// <summary>kt tokenize: the ids of texts, one JSON array a line, without the special tokens that a model's input begins with.</summary>
internal static class TokenizeCommand
{
    public static Command Create()
    {
        var path = new Option<string>("--tokenizer")
        {
            Description = "A folder with tokenizer.json or tiktoken.model, that file, or a model's name in Hugging Face's or ModelScope's cache",
            Required = true,
        };
        var file = new Option<FileInfo?>("--file") { Description = "One text a line (default: standard input)" };
        var jsonl = new Option<bool>("--jsonl") { Description = "Each line is a JSON string, so that a text can hold line breaks" };
        var decode = new Option<bool>("--decode") { Description = "The other way: each line is a JSON array of ids, and becomes a JSON string" };
        var command = new Command("tokenize", "Print the token ids of texts, one JSON array a line") { path, file, jsonl, decode };
        command.SetAction(parsed =>
        {
            var tokenizer = Tokenizer.Load(parsed.GetRequiredValue(path));
            using var input = parsed.GetValue(file) is { } source ? RegularFile.Open(source.FullName, "a file of texts") : Console.OpenStandardInput();
            using var output = new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false), 1 << 16);
            var name = parsed.GetValue(file)?.FullName ?? "standard input";
            using var reader = new StreamReader(input, Encoding.UTF8, detectEncodingFromByteOrderMarks: true);
            var (asJson, back) = (parsed.GetValue(jsonl), parsed.GetValue(decode));
            // Order is kept; a few thousand lines are in work at a time, so a pipe never waits for its end.
            foreach (var lines in Lines(reader).Select((text, i) => (text, Where: $"{name}:{i + 1}")).Chunk(4096))
            {
                // What can be wrong with a line is found here, in order, and not on some thread.
                string[] texts = [.. lines.Select(line =>
                    back ? Decode(tokenizer, line.text, line.Where) : asJson ? JsonText(line.text, line.Where) : line.text)];
                IEnumerable<string> results = back ? texts : texts.AsParallel().AsOrdered().Select(text => Encode(tokenizer, text));
                foreach (var result in results)
                    output.Write(result);
            }
        });
        return command;
    }

    // Only LF ends a line: a text may well hold a CR, and other separators of Unicode.
    private static IEnumerable<string> Lines(StreamReader reader)
    {
        var line = new StringBuilder();
        var buffer = new char[1 << 16];
        for (int count; (count = reader.Read(buffer)) > 0;)
        {
            var rest = buffer.AsMemory(0, count);
            for (int end; (end = rest.Span.IndexOf('\n')) >= 0; rest = rest[(end + 1)..])
            {
                yield return line.Append(rest[..end]).ToString();
                line.Clear();
            }
            line.Append(rest);
        }
        if (line.Length > 0)
            yield return line.ToString();
    }

    private static string Encode(Tokenizer tokenizer, string text)
    {
        var ids = tokenizer.Encode(text);
        var line = new StringBuilder(ids.Length * 6).Append('[');
        for (var i = 0; i < ids.Length; i++)
            line.Append(CultureInfo.InvariantCulture, $"{(i > 0 ? "," : "")}{ids[i]}");
        return line.Append("]\n").ToString();
    }

    private static string Decode(Tokenizer tokenizer, string line, string where)
    {
        int[]? ids = null;
        try
        {
            ids = JsonSerializer.Deserialize(line, TextJson.Default.Int32Array);
        }
        catch (JsonException)
        {
            // said below, together with `null`
        }
        if (ids is null)
            throw new InvalidDataException($"{where}: not a JSON array of the tokenizer's ids, such as [1, 2, 3]: {Short(line)}");
        try
        {
            return JsonSerializer.Serialize(tokenizer.Decode(ids), TextJson.Readable.String) + "\n";
        }
        catch (ArgumentOutOfRangeException e)
        {
            throw new InvalidDataException($"{where}: {e.Message}", e);
        }
    }

    private static string Short(string line) => line.Length <= 60 ? line : line[..60] + "…";

    private static string JsonText(string line, string where)
    {
        try
        {
            return JsonSerializer.Deserialize(WithWholeSurrogates(line), TextJson.Default.String) ?? "";
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{where}: not a JSON string. With --jsonl each line is one, such as \"a\\nb\".", e);
        }
    }

    /// <summary>JSON can spell half of a surrogate pair, which is no text: it becomes U+FFFD, as everywhere when bytes are no character.</summary>
    private static string WithWholeSurrogates(string json)
    {
        StringBuilder? changed = null;
        for (var i = json.IndexOf('\\'); i >= 0 && i + 1 < json.Length; i = json.IndexOf('\\', i + 2))
        {
            if (Unit(json, i) is not { } unit || !char.IsSurrogate(unit))
                continue;
            if (char.IsHighSurrogate(unit) && Unit(json, i + 6) is { } low && char.IsLowSurrogate(low))
                i += 6;
            else
                (changed ??= new StringBuilder(json)).Remove(i + 2, 4).Insert(i + 2, "FFFD");
        }
        return changed?.ToString() ?? json;
    }

    private static char? Unit(string json, int at) =>
        at + 6 <= json.Length && json[at] == '\\' && json[at + 1] == 'u'
            && ushort.TryParse(json.AsSpan(at + 2, 4), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var unit) ? (char)unit : null;
}

[JsonSerializable(typeof(string))]
[JsonSerializable(typeof(int[]))]
internal sealed partial class TextJson : JsonSerializerContext
{
    /// <summary>Every character of a text but the ones that JSON itself forbids stands for itself.</summary>
    public static readonly TextJson Readable = new(new JsonSerializerOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
}
