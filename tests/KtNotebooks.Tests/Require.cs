using Xunit;

namespace KtNotebooks.Tests;

/// <summary>
/// Hardware that a test needs. What is missing skips the test with the reason; on a machine that should have it, <c>KT_REQUIRE=amx,cuda</c> makes the same
/// a failure, so that nothing passes there by not running.
/// </summary>
public static class Require
{
    private static readonly HashSet<string> Wanted = [.. (Environment.GetEnvironmentVariable("KT_REQUIRE")
        ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)];

    /// <summary>Whether the card is the emulator of tests/cuda-emulator: `KT_EMULATE_CUDA=1 ./kt …` sets it up.</summary>
    public static bool EmulatedCard { get; } = Environment.GetEnvironmentVariable("KT_EMULATE_CUDA") == "1";

    /// <param name="what">The word used in KT_REQUIRE: `amx`, `cuda`, ….</param>
    /// <param name="missing">Why it is not usable here, or null where it is.</param>
    public static void Hardware(string what, string? missing)
    {
        if (what == "cuda" && EmulatedCard) missing ??= Wanted.Contains(what) ? "the card is emulated" : null;
        if (missing is null) return;
        Assert.False(Wanted.Contains(what), $"KT_REQUIRE names {what}, but {missing}");
        Assert.Skip($"no {what}: {missing}");
    }
}
