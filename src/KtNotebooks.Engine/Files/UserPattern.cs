using System.Text.RegularExpressions;

namespace KtNotebooks.Files;

/// <summary>
/// A regular expression that a person or a file wrote. It matches in linear time where .NET can (no look-around, no back references), else under a time
/// limit, so that `a*a*a*a*b` is a line and not a night.
/// </summary>
public sealed class UserPattern
{
    /// <summary>The longest pattern taken, in characters.</summary>
    public const int LongestPattern = 10_000;

    /// <summary>The deepest brackets taken: .NET's parser calls itself for each.</summary>
    public const int DeepestBrackets = 200;

    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(1);
    private readonly Regex _regex;
    private readonly string _source;

    /// <param name="pattern">The pattern, in .NET's (nearly Python's) syntax.</param>
    /// <param name="source">Where it stands, as errors begin: file:line and key.</param>
    /// <param name="whole">It must match a whole name, as Python's fullmatch; else any part, as search.</param>
    /// <exception cref="InvalidDataException">Not a regular expression, or too large a one.</exception>
    public UserPattern(string pattern, string source, bool whole = false)
        : this(pattern, source, whole ? @"\A(?:" : "", whole ? @")\z" : "")
    {
    }

    private UserPattern(string pattern, string source, string before, string after)
    {
        ArgumentNullException.ThrowIfNull(pattern);
        _source = source;
        if (pattern.Length > LongestPattern)
            throw new InvalidDataException($"{source}: a pattern may have {LongestPattern:N0} characters, this one has {pattern.Length:N0}");
        if (Depth(pattern) > DeepestBrackets)
            throw new InvalidDataException($"{source}: the brackets of a pattern may stand {DeepestBrackets} deep in each other");
        var text = before + pattern + after;
        try
        {
            _ = new Regex(pattern, RegexOptions.CultureInvariant, Limit); // by itself: `a)(b` must not pass because of the brackets put round it
            try
            {
                _regex = new Regex(text, RegexOptions.CultureInvariant | RegexOptions.NonBacktracking, Limit);
            }
            catch (NotSupportedException) // look-around, which KTransformers' rules use, or too large an automaton
            {
                _regex = new Regex(text, RegexOptions.CultureInvariant, Limit);
            }
        }
        catch (RegexParseException error)
        {
            throw new InvalidDataException($"{source}: not a regular expression: {Words(error.Error)} at character {error.Offset} of '{pattern}'");
        }
    }

    /// <summary>The error's own name in plain words: InsufficientClosingParentheses as "insufficient closing parentheses".</summary>
    private static string Words(RegexParseError error) =>
        string.Concat(error.ToString().Select((c, i) => char.IsUpper(c) ? $"{(i == 0 ? "" : " ")}{char.ToLowerInvariant(c)}" : $"{c}"));

    /// <summary>PEFT's rule for the names of modules: the whole path must match, or its end after a dot.</summary>
    /// <inheritdoc cref="UserPattern(string, string, bool)"/>
    public static UserPattern OfModule(string pattern, string source) => new(pattern, source, @"\A(?:.*\.)?(?:", @")\z");

    /// <exception cref="InvalidDataException">The pattern took longer than a second.</exception>
    public bool IsMatch(string name) => Guarded(() => _regex.IsMatch(name), name);

    /// <inheritdoc cref="IsMatch"/>
    public string Replace(string name, string replacement) => Guarded(() => _regex.Replace(name, replacement), name);

    private T Guarded<T>(Func<T> run, string name)
    {
        try
        {
            return run();
        }
        catch (RegexMatchTimeoutException)
        {
            throw new InvalidDataException($"{_source}: the pattern '{Short(_regex.ToString())}' takes more than {Limit.TotalSeconds:0} s "
                + $"on '{Short(name)}'; write it without stars behind stars");
        }
    }

    private static string Short(string text) => text.Length <= 80 ? text : text[..77] + "…";

    private static int Depth(string pattern)
    {
        var (depth, deepest) = (0, 0);
        foreach (var c in pattern)
        {
            if (c is '(' or '[') deepest = Math.Max(deepest, ++depth);
            else if (c is ')' or ']') depth--;
        }
        return deepest;
    }
}
