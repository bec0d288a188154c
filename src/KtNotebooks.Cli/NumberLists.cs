using System.CommandLine;

namespace KtNotebooks.Cli;

/// <summary>Options that are several positive numbers: `--streams 1,32`, and as several words too.</summary>
internal static class NumberLists
{
    public static Option<int[]> Create(string name, string what, params int[] normal) => new(name)
    {
        Description = what,
        AllowMultipleArgumentsPerToken = true,
        DefaultValueFactory = _ => normal,
        CustomParser = given => Parse(string.Join(',', given.Tokens.Select(t => t.Value)), name),
    };

    /// <summary>Numbers with commas between them.</summary>
    /// <exception cref="ArgumentException">One is none, or below 1.</exception>
    public static int[] Parse(string words, string option) => [.. words.Split(',').Select(word => int.TryParse(word, out var n) && n > 0 ? n
        : throw new ArgumentException($"{option} must be a number, or several with commas between them, but is '{words}'"))];
}
