using Xunit;

namespace KtNotebooks.Tests;

/// <summary>
/// Hardware that a test needs. What is missing skips the test with the reason; on a machine that should have it, <c>KT_REQUIRE=amx,cuda</c> makes the same a failure, so that
/// nothing passes there by not running.
/// </summary>
public static class Require
{
    private static readonly HashSet<string> Wanted = [.. (Environment.GetEnvironmentVariable("KT_REQUIRE") ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)];

    /// <param name="what">The word used in KT_REQUIRE: `amx`, `cuda`, ….</param>
    /// <param name="missing">Why it is not usable here, or null where it is.</param>
    public static void Hardware(string what, string? missing)
    {
        if (missing is null) return;
        Assert.False(Wanted.Contains(what), $"KT_REQUIRE names {what}, but {missing}");
        Assert.Skip($"no {what}: {missing}");
    }
}
