using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Generation;

namespace KtNotebooks.Evaluation;

/// <summary>
/// A model behind an OpenAI-style server, ours or another. A server that is busy or gone for a moment is asked again; what it refuses is told with its words.
/// </summary>
public sealed class RemoteModel : IDisposable
{
    private const int Tries = 6;

    private readonly HttpClient _http = new() { Timeout = TimeSpan.FromMinutes(30) };
    private readonly Sampling _sampling;
    private readonly bool _topK, _repetition;

    private RemoteModel(Uri url, string name, Sampling sampling, Settings c)
    {
        (Url, Name, _sampling, _topK, _repetition) = (url, name, sampling, c.Has("top_k"), c.Has("repetition_penalty"));
        var key = c.List("api_key")?[0] ?? Environment.GetEnvironmentVariable("OPENAI_API_KEY") ?? Environment.GetEnvironmentVariable("API_KEY");
        if (!string.IsNullOrEmpty(key)) _http.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", key);
    }

    /// <summary>Where /chat/completions is asked: `http://127.0.0.1:8000/v1`.</summary>
    public Uri Url { get; }

    /// <summary>The model's name there.</summary>
    public string Name { get; }

    /// <summary>Reads api_base, api_model_name, api_key; null where the config names no server.</summary>
    /// <exception cref="ArgumentException">No URL, or no name of a model.</exception>
    public static RemoteModel? Read(Settings c, Sampling sampling)
    {
        ArgumentNullException.ThrowIfNull(c);
        if (c.Text("api_base") is not { } text) return null;
        if (!Uri.TryCreate(text.TrimEnd('/') + "/", UriKind.Absolute, out var url) || url.Scheme is not ("http" or "https"))
            throw c.Wrong("api_base", "the URL of an OpenAI-style server, as http://127.0.0.1:8000/v1");
        return new RemoteModel(url, c.Required("api_model_name"), sampling, c);
    }

    /// <summary>The answer to a row.</summary>
    /// <exception cref="InvalidOperationException">The server refuses it, or cannot be reached; what it said is told.</exception>
    public async Task<(string Text, int Tokens)> AnswerAsync(Example example, int row, CancellationToken cancel)
    {
        ArgumentNullException.ThrowIfNull(example);
        var body = Body(example, row).ToJsonString();
        for (var attempt = 1; ; attempt++)
        {
            var (text, tokens, wait, wrong) = await Once(body, cancel);
            if (text is not null) return (text, tokens);
            if (wait is null || attempt == Tries) throw new InvalidOperationException($"{Url}: row {row + 1}: {wrong}");
            await Task.Delay(wait.Value * attempt, cancel);
        }
    }

    public void Dispose() => _http.Dispose();

    private async Task<(string? Text, int Tokens, TimeSpan? Wait, string? Wrong)> Once(string body, CancellationToken cancel)
    {
        var second = TimeSpan.FromSeconds(1);
        try
        {
            using var content = new StringContent(body, Encoding.UTF8, "application/json");
            using var answer = await _http.PostAsync(new Uri(Url, "chat/completions"), content, cancel);
            var said = await answer.Content.ReadAsStringAsync(cancel);
            if (!answer.IsSuccessStatusCode)
            {
                var later = answer.StatusCode is HttpStatusCode.TooManyRequests or HttpStatusCode.ServiceUnavailable or HttpStatusCode.BadGateway
                    or HttpStatusCode.GatewayTimeout;
                return (null, 0, later ? answer.Headers.RetryAfter?.Delta ?? second : null, $"the server said {(int)answer.StatusCode}: {Message(said)}");
            }
            var json = JsonNode.Parse(said);
            return json?["choices"]?[0]?["message"] is JsonObject message
                ? ((string?)message["content"] ?? "", (int?)json["usage"]?["completion_tokens"] ?? 0, null, null)
                : (null, 0, null, "the server's answer has no choices[0].message");
        }
        catch (Exception error) when (error is HttpRequestException or IOException)
        {
            return (null, 0, second, $"cannot be reached: {error.Message.TrimEnd('.')}");
        }
        catch (OperationCanceledException) when (!cancel.IsCancellationRequested)
        {
            return (null, 0, second, $"gave no answer within {_http.Timeout.TotalMinutes:0} minutes");
        }
        catch (JsonException)
        {
            return (null, 0, null, "the server's answer is no JSON");
        }
    }

    private JsonObject Body(Example example, int row)
    {
        if (example.Tools is not null || example.Prompt.Any(m => m.Role is Role.Observation or Role.Function))
            throw new ArgumentException($"{example.Source}: the row has tools, which are not sent to a server; predict it with the model itself");
        var messages = new JsonArray();
        if (example.System is { Length: > 0 } system) messages.Add(new JsonObject { ["role"] = "system", ["content"] = system });
        foreach (var (role, content) in example.Prompt)
            messages.Add(new JsonObject { ["role"] = role == Role.User ? "user" : "assistant", ["content"] = content });
        var body = new JsonObject
        {
            ["model"] = Name,
            ["messages"] = messages,
            ["max_tokens"] = _sampling.MaxNewTokens,
            ["temperature"] = _sampling.DoSample ? _sampling.Temperature : 0,
        };
        if (!_sampling.DoSample) return body;
        body["top_p"] = _sampling.TopP;
        body["seed"] = (long)(_sampling.Of(row).Seed >> 1);
        if (_topK) body["top_k"] = _sampling.TopK; // OpenAI has it not: only where it is asked for
        if (_repetition) body["repetition_penalty"] = _sampling.RepetitionPenalty;
        return body;
    }

    private static string Message(string said)
    {
        try
        {
            return (string?)JsonNode.Parse(said)?["error"]?["message"] ?? said;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            return said.Length <= 200 ? said : said[..200];
        }
    }
}
