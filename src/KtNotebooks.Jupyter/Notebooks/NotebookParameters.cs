using System.Globalization;
using System.Text.Json.Nodes;

using KtNotebooks.Jupyter.Cells;

using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>
/// Values for a notebook's parameters, as papermill gives them: the cell with the tag `parameters` holds what is taken otherwise, and a cell
/// `injected-parameters` after it declares the given values. Without such a cell the values stand at the top. A value has the type that the notebook
/// declares; where it declares none, the type of its text.
/// </summary>
internal sealed class NotebookParameters
{
    private const string Tag = "parameters", InjectedTag = "injected-parameters";
    private readonly List<(string Name, string Value)> _values = [];

    /// <param name="pairs">Of the form name=value.</param>
    /// <exception cref="ArgumentException">One is not, or a name is given twice.</exception>
    internal NotebookParameters(IEnumerable<string> pairs)
    {
        foreach (var pair in pairs)
        {
            var at = pair.IndexOf('=', StringComparison.Ordinal);
            var name = at < 0 ? pair : pair[..at].Trim();
            if (at < 0) throw new ArgumentException($"-p {pair}: must be name=value");
            if (!SyntaxFacts.IsValidIdentifier(name) || SyntaxFacts.GetKeywordKind(name) != SyntaxKind.None)
                throw new ArgumentException($"-p {pair}: '{name}' cannot be the name of a variable");
            if (_values.Any(v => v.Name == name)) throw new ArgumentException($"-p {pair}: {name} is given twice");
            _values.Add((name, pair[(at + 1)..]));
        }
    }

    /// <summary>Puts the cell in, in place of one of an earlier run.</summary>
    /// <returns>What a person should know: names that the notebook does not declare.</returns>
    /// <exception cref="ArgumentException">A value is not of the declared type.</exception>
    internal IReadOnlyList<string> Inject(NotebookFile notebook)
    {
        if (_values.Count == 0) return [];
        var cells = notebook.Cells;
        foreach (var old in notebook.CodeCells.Where(c => NotebookFile.Tags(c).Contains(InjectedTag)).ToArray()) cells.Remove(old);
        var tagged = notebook.CodeCells.FirstOrDefault(c => NotebookFile.Tags(c).Contains(Tag));
        var declared = tagged is null ? [] : Declared(NotebookFile.Source(tagged));
        var lines = _values.Select(v => Declare(v.Name, v.Value, declared.GetValueOrDefault(v.Name)));
        cells.Insert(tagged is null ? 0 : cells.IndexOf(tagged) + 1, new JsonObject
        {
            ["cell_type"] = "code",
            ["id"] = InjectedTag,
            ["metadata"] = new JsonObject { ["tags"] = new JsonArray(InjectedTag) },
            ["source"] = string.Join('\n', ["// Parameters", .. lines]),
            ["outputs"] = new JsonArray(),
            ["execution_count"] = null,
        });
        return tagged is null ? ["no cell has the tag 'parameters'; the given values stand in a new first cell"]
            : [.. _values.Where(v => !declared.ContainsKey(v.Name))
            .Select(v => $"the cell with the tag 'parameters' has no {v.Name}; it has {string.Join(", ", declared.Keys)}")];
    }

    /// <summary>The variables of a cell with their types as words; null where only the value tells, and it does not.</summary>
    private static Dictionary<string, string?> Declared(string source)
    {
        CodeDepth.Check(source, Tag);
        Dictionary<string, string?> declared = [];
        foreach (var declaration in ScriptChain.Tree(CellSource.Split(source).Code).GetCompilationUnitRoot().Members.Select(Variables)
            .OfType<VariableDeclarationSyntax>())
        {
            foreach (var variable in declaration.Variables)
                declared[variable.Identifier.ValueText] = declaration.Type.IsVar ? TypeOf(variable.Initializer?.Value) : declaration.Type.ToString();
        }
        return declared;
    }

    private static VariableDeclarationSyntax? Variables(MemberDeclarationSyntax member) => member switch
    {
        FieldDeclarationSyntax field => field.Declaration,
        GlobalStatementSyntax { Statement: LocalDeclarationStatementSyntax local } => local.Declaration,
        _ => null,
    };

    private static string? TypeOf(ExpressionSyntax? value) => value switch
    {
        PrefixUnaryExpressionSyntax { Operand: var operand } => TypeOf(operand),
        InterpolatedStringExpressionSyntax => "string",
        LiteralExpressionSyntax { Token.Value: { } literal } => literal switch
        {
            string => "string",
            bool => "bool",
            int => "int",
            long => "long",
            double => "double",
            float => "float",
            decimal => "decimal",
            _ => null
        },
        _ => null,
    };

    private static string Declare(string name, string value, string? type)
    {
        var nullable = type?.EndsWith('?') == true;
        var plain = nullable ? type![..^1] : type;
        if (value == "null" && (type is null || nullable)) return $"{type ?? "object"} {name} = null;";
        return plain switch
        {
            null => $"var {name} = {Guess(value)};",
            "string" => $"{type} {name} = {SymbolDisplay.FormatLiteral(value, quote: true)};",
            "bool" => $"{type} {name} = {(bool.TryParse(value, out var flag) ? flag ? "true" : "false" : throw Bad("true or false"))};",
            "int" => int.TryParse(value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var i)
                ? $"{type} {name} = {i};" : throw Bad("a whole number"),
            "long" => long.TryParse(value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var l)
                ? $"{type} {name} = {l};" : throw Bad("a whole number"),
            "double" => $"{type} {name} = {Number("d")};",
            "float" => $"{type} {name} = {Number("f")};",
            "decimal" => decimal.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out var m)
                ? $"{type} {name} = {m.ToString(CultureInfo.InvariantCulture)}m;" : throw Bad("a number"),
            // Of another type, such as a list: the value is taken as C#.
            _ => $"{type} {name} = {value};",
        };

        string Number(string suffix) => double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out var d) && double.IsFinite(d)
            ? d.ToString("R", CultureInfo.InvariantCulture) + suffix : throw Bad("a number");

        ArgumentException Bad(string wanted) => new($"-p {name}={value}: the notebook declares {name} as {type}, so it must be {wanted}");
    }

    private static string Guess(string value) =>
        value is "true" or "false" ? value
        : long.TryParse(value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out var whole)
        ? whole is >= int.MinValue and <= int.MaxValue ? $"{whole}" : $"{whole}L"
        : double.TryParse(value, NumberStyles.Float, CultureInfo.InvariantCulture, out var number) && double.IsFinite(number)
        ? number.ToString("R", CultureInfo.InvariantCulture) + "d"
        : SymbolDisplay.FormatLiteral(value, quote: true);
}
