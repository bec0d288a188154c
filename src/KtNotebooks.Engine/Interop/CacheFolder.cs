namespace KtNotebooks.Interop;

/// <summary>Where what can be made again is kept between runs: KT_CACHE, or `ktnotebooks` in XDG_CACHE_HOME, or in ~/.cache.</summary>
internal static class CacheFolder
{
    /// <summary>A part of it; not made.</summary>
    public static string Of(string part)
    {
        if (Set("KT_CACHE") is { } own) return Path.Combine(own, part);
        var caches = Set("XDG_CACHE_HOME") ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache");
        return Path.Combine(caches, "ktnotebooks", part);
    }

    private static string? Set(string variable) => Environment.GetEnvironmentVariable(variable) is { Length: > 0 } value ? value : null;
}
