using System.Text.RegularExpressions;

namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// A sentence with holes: {column} is a cell of the row; {a:column} puts "a" or "an" before it; {Cap:column} raises its first letter;
/// {A:column} does both.
/// </summary>
internal static partial class Template
{
    /// <summary>The text of a cell that a row does not have.</summary>
    public const string Missing = "-";

    /// <summary>The filled sentence, or null if the row lacks one of its cells.</summary>
    /// <exception cref="InvalidDataException">The template names a column or form that does not exist.</exception>
    public static string? Fill(string template, IReadOnlyDictionary<string, string> row)
    {
        var complete = true;
        var text = Hole().Replace(template, hole =>
        {
            var column = hole.Groups["column"].Value;
            if (!row.TryGetValue(column, out var cell))
                throw new InvalidDataException($"template '{template}' names the column '{column}', but the table has: {string.Join(", ", row.Keys)}");
            complete &= cell != Missing;
            return Form(hole.Groups["form"].Value, cell, template);
        });
        return complete ? text : null;
    }

    private static string Form(string form, string cell, string template) => form switch
    {
        "" => cell,
        "a" => Article(cell) + cell,
        "A" => Capital(Article(cell) + cell),
        "Cap" => Capital(cell),
        _ => throw new InvalidDataException($"template '{template}' uses the form '{form}', but the forms are: a, A, Cap"),
    };

    private static string Article(string noun) => noun.Length > 0 && "aeiouAEIOU".Contains(noun[0])
        && !noun.StartsWith("uni", StringComparison.Ordinal) && !noun.StartsWith("one", StringComparison.Ordinal) ? "an " : "a ";

    private static string Capital(string text) => text.Length == 0 ? text : char.ToUpperInvariant(text[0]) + text[1..];

    [GeneratedRegex(@"\{((?<form>\w+):)?(?<column>\w+)\}")]
    private static partial Regex Hole();
}
