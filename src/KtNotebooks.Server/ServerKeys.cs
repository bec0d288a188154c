using KtNotebooks.Configuration;
using KtNotebooks.Generation;

namespace KtNotebooks.Server;

/// <summary>
/// The keys of `kt api`, and the variables by which LLaMA-Factory has them: API_HOST, API_PORT, API_KEY, API_MODEL_NAME, API_VERBOSE, MAX_CONCURRENT. A key
/// that is given stands above its variable.
/// </summary>
public static class ServerKeys
{
    /// <summary>What the engine reads; <see cref="ModelKeys"/> reads the model's own.</summary>
    public static EngineSettings ReadEngine(Settings c, ModelKeys model, Sampling sampling)
    {
        ArgumentNullException.ThrowIfNull(c);
        ArgumentNullException.ThrowIfNull(model);
        return new EngineSettings
        {
            BaseName = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(model.Path))),
            ModelName = Text(c, "api_model_name", "API_MODEL_NAME"),
            Slots = c.MaybePositive("api_slots") ?? Variable("MAX_CONCURRENT", least: 1) ?? c.Int("api_slots"),
            Waiting = c.Positive("api_queue"),
            PromptRows = c.Positive("api_prompt_rows"),
            CacheTokens = c.Positive("api_cache_tokens"),
            AdapterFolders = Folders(c),
            Sampling = sampling,
            SeedGiven = c.Has("seed"),
        };
    }

    /// <summary>Who may ask, and how much.</summary>
    public static ApiSettings ReadApi(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var port = c.MaybeInt("api_port") ?? Variable("API_PORT") ?? c.Int("api_port");
        if (port is < 0 or > 65535) throw c.Has("api_port") ? c.Wrong("api_port", "from 0 to 65535")
            : new ArgumentException($"API_PORT must be from 0 to 65535, but is {port}");
        var keys = c.List("api_key");
        // An unset variable of a script: nobody who writes the key means to serve everyone.
        if ((keys is null && c.Given.ContainsKey("api_key")) || keys is [] || keys?.Contains("") == true)
            throw c.Wrong("api_key", "a key that clients send; left out, everyone is served");
        return new ApiSettings
        {
            Host = Text(c, "api_host", "API_HOST") ?? c.TextOrDefault("api_host"),
            Port = port,
            Keys = keys ?? (Environment.GetEnvironmentVariable("API_KEY") is { Length: > 0 } key ? [key] : []),
            Origins = Origins(c),
            MaxBody = c.Number("api_max_body_mb") is > 0 and <= 1 << 20 and var mb ? Math.Max(1, (long)(mb * (1 << 20)))
                : throw c.Wrong("api_max_body_mb", "above 0 and at most 1,048,576"),
            Timeout = TimeSpan.FromSeconds(c.Positive("api_timeout")),
            Verbose = c.Has("api_verbose") ? c.Flag("api_verbose") : Flag("API_VERBOSE"),
        };
    }

    private static IReadOnlyList<string> Folders(Settings c)
    {
        var folders = c.List("api_adapter_folders") ?? [];
        return folders.FirstOrDefault(f => !Directory.Exists(f)) is { } missing
            ? throw c.Wrong("api_adapter_folders", $"folders that exist; there is no '{missing}'") : folders;
    }

    /// <summary>Browsers send an origin as scheme://host[:port], so that nothing else could ever be met.</summary>
    private static IReadOnlyList<string> Origins(Settings c)
    {
        var origins = c.List("api_cors") ?? [];
        return origins.FirstOrDefault(o => o != "*" && !IsOrigin(o)) is { } wrong
            ? throw c.Wrong("api_cors", $"* or origins as browsers send them, like https://example.org or http://localhost:3000; '{wrong}' is none") : origins;

        static bool IsOrigin(string text) => Uri.TryCreate(text, UriKind.Absolute, out var uri) && uri.GetLeftPart(UriPartial.Authority) == text;
    }

    /// <summary>As LLaMA-Factory reads it; what it would take for no is refused, where it is no word for it.</summary>
    private static bool Flag(string name) => Environment.GetEnvironmentVariable(name)?.ToLowerInvariant() switch
    {
        "1" or "true" or "y" or "yes" or "on" => true,
        null or "" or "0" or "false" or "n" or "no" or "off" => false,
        var other => throw new ArgumentException($"{name} must be 1 or 0, but is '{other}'"),
    };

    private static string? Text(Settings c, string key, string variable) =>
        c.Text(key) ?? (Environment.GetEnvironmentVariable(variable) is { Length: > 0 } given ? given : null);

    private static int? Variable(string name, int least = 0) => Environment.GetEnvironmentVariable(name) is not { Length: > 0 } given ? null
        : int.TryParse(given, out var number) && number >= least ? number
        : throw new ArgumentException($"{name} must be a whole number of at least {least}, but is '{given}'");
}
