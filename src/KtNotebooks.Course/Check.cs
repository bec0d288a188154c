using System.Globalization;

namespace KtNotebooks.Course;

/// <summary>
/// Checks of a notebook. <see cref="That(string, bool?, string)"/> and its like judge an exercise: they say ✓, ✗ or ○ (not answered yet), never the answer, and
/// the notebook goes on. <see cref="Holds"/> is what the notebook itself claims: it ends the cell where it does not.
/// <code>
/// double? gradient = null;   // yours
/// Check.That("dL/dB[0,1]", gradient, dB[0, 1], within: 1e-3);
/// </code>
/// </summary>
public static class Check
{
    /// <summary>An exercise whose answer is a number.</summary>
    /// <param name="what">What is asked for.</param>
    /// <param name="yours">Null: not answered yet.</param>
    /// <param name="wanted">The right answer.</param>
    /// <param name="within">The largest error that counts as right, as a share of <paramref name="wanted"/> (of 1 where that is 0).</param>
    /// <returns>Whether it is right.</returns>
    public static bool That(string what, double? yours, double wanted, double within = 1e-6)
    {
        if (yours is not { } given) return Unanswered(what);
        var right = Math.Abs(given - wanted) <= within * (wanted == 0 ? 1 : Math.Abs(wanted));
        var fault = given < wanted ? "too small" : given > wanted ? "too large" : "no number";
        return Say(what, right, $"{given.ToString("G6", CultureInfo.InvariantCulture)} is {fault}");
    }

    /// <summary>An exercise whose answer is anything else that can be compared.</summary>
    public static bool That<T>(string what, T? yours, T wanted) where T : class =>
        yours is null ? Unanswered(what) : Say(what, yours.Equals(wanted), $"{yours} is not it");

    /// <summary>An exercise whose answer is something that must hold.</summary>
    /// <param name="what">What is asked for.</param>
    /// <param name="holds">Null: not answered yet.</param>
    /// <param name="hint">What to look at where it does not.</param>
    public static bool That(string what, bool? holds, string hint = "look again") => holds is { } right ? Say(what, right, hint) : Unanswered(what);

    /// <summary>What the notebook says of itself.</summary>
    /// <param name="what">The claim.</param>
    /// <param name="holds">Whether it is true.</param>
    /// <param name="promised">False where a setting was changed that the claim rests on: then it is only said whether it holds.</param>
    /// <exception cref="InvalidOperationException">It was promised and does not hold.</exception>
    public static void Holds(string what, bool holds, bool promised = true)
    {
        if (!holds && promised) throw new InvalidOperationException($"does not hold: {what}");
        Console.WriteLine(holds ? $"holds: {what}" : $"does not hold with these settings: {what}");
    }

    private static bool Unanswered(string what)
    {
        Console.WriteLine($"○ {what}: not answered yet");
        return false;
    }

    private static bool Say(string what, bool right, string hint)
    {
        Console.WriteLine(right ? $"✓ {what}" : $"✗ {what}: {hint}");
        return right;
    }
}
