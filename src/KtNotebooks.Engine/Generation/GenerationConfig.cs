using System.Text.Json;

using KtNotebooks.Files;

namespace KtNotebooks.Generation;

/// <summary>
/// How a model's makers want it to be sampled: generation_config.json, as Hugging Face reads it. `kt chat` takes from there what no key says; what stands
/// in neither is LLaMA-Factory's default. Predictions and scores keep LLaMA-Factory's defaults alone, so that they can be compared with its own.
/// </summary>
public static class GenerationConfig
{
    public const string FileName = "generation_config.json";

    /// <summary>What the file of a model folder says over LLaMA-Factory's defaults; null where there is no such file or none of these keys in it.</summary>
    /// <exception cref="InvalidDataException">A key of another kind, or a value out of range; the file is named.</exception>
    public static Sampling? Read(string folder)
    {
        var path = Path.Combine(folder, FileName);
        if (!File.Exists(path)) return null;
        var root = JsonSource.Read(path, "a model's generation_config.json");
        var sampling = new Sampling();
        var said = sampling with
        {
            DoSample = Value(root, path, "do_sample", sampling.DoSample, "true or false",
                v => v.ValueKind is JsonValueKind.True or JsonValueKind.False ? v.GetBoolean() : null),
            Temperature = Number(root, path, "temperature", sampling.Temperature),
            TopP = Number(root, path, "top_p", sampling.TopP),
            TopK = Value(root, path, "top_k", sampling.TopK, "a whole number", v => v.ValueKind == JsonValueKind.Number && v.TryGetInt32(out var n) ? n : null),
            RepetitionPenalty = Number(root, path, "repetition_penalty", sampling.RepetitionPenalty),
            MaxNewTokens = Value(root, path, "max_new_tokens", sampling.MaxNewTokens, "a whole number",
                v => v.ValueKind == JsonValueKind.Number && v.TryGetInt32(out var n) ? n : null),
        };
        try
        {
            return said == sampling ? null : said.Checked();
        }
        catch (ArgumentException error)
        {
            throw new InvalidDataException($"{path}: {error.Message}");
        }
    }

    private static double Number(JsonElement root, string path, string key, double missing) =>
        Value(root, path, key, missing, "a number", v => v.ValueKind == JsonValueKind.Number ? v.GetDouble() : null);

    private static T Value<T>(JsonElement root, string path, string key, T missing, string wanted, Func<JsonElement, T?> read)
        where T : struct =>
        !root.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null ? missing
            : read(value)
            ?? throw new InvalidDataException($"{path}: '{key}' must be {wanted}, but is "
            + $"{(value.ValueKind == JsonValueKind.Number ? value.GetRawText() : JsonSource.Named(value))}");
}
