using System.Text;

namespace KtNotebooks.Data.Jinja;

/// <summary>
/// A Jinja template as transformers runs chat templates: trim_blocks and lstrip_blocks, loop controls, generation blocks, tojson without ASCII escapes.
/// What chat templates use is here; anything else is refused with its line when the template is read. Values are null, bool, long, double, string,
/// <see cref="List{T}"/> and <see cref="Dictionary{TKey, TValue}"/> of such.
/// </summary>
public sealed class JinjaTemplate
{
    private readonly string _name;
    private readonly Statement[] _body;

    private JinjaTemplate(string name, Statement[] body) => (_name, _body) = (name, body);

    /// <param name="source">The template.</param>
    /// <param name="name">The file that it stands in, for errors.</param>
    /// <exception cref="InvalidDataException">Not valid, or something that is not known here; name and line are given.</exception>
    public static JinjaTemplate Parse(string source, string name)
    {
        try
        {
            return new JinjaTemplate(name, new Parser(Lexer.Read(source)).Template());
        }
        catch (JinjaError error)
        {
            throw error.In(name);
        }
    }

    /// <param name="variables">By name.</param>
    /// <exception cref="InvalidDataException">The template raised an error, or did something without a meaning; name and line are given.</exception>
    public string Render(IReadOnlyDictionary<string, object?> variables)
    {
        ArgumentNullException.ThrowIfNull(variables);
        var (scope, text) = (new Scope(null), new StringBuilder());
        foreach (var (key, value) in Globals.All) scope.Values[key] = value;
        foreach (var (key, value) in variables) scope.Values[key] = value;
        try
        {
            Statement.RunAll(_body, scope, text);
        }
        catch (JinjaError error)
        {
            throw error.In(_name);
        }
        return text.ToString();
    }
}

/// <summary>What is wrong, and in which line; the template's name is added on the way out.</summary>
internal sealed class JinjaError(string message, int line) : Exception(message)
{
    /// <summary>0: not known yet.</summary>
    public int Line => line;

    public InvalidDataException In(string name) => new($"{name}:{line}: {Message}");

    public static JinjaError Without(string message) => new(message, 0);
}

/// <summary>Variables: those of a loop or a macro lie over those of what it stands in.</summary>
internal sealed class Scope(Scope? outer)
{
    public Dictionary<string, object?> Values { get; } = new(StringComparer.Ordinal);

    public Scope Root => outer is null ? this : outer.Root;

    public object? Find(string name)
    {
        for (var at = this; at is not null; at = at.Outer)
            if (at.Values.TryGetValue(name, out var value)) return value;
        return new Undefined(name);
    }

    private Scope? Outer => outer;
}

/// <summary>A name that nothing stands for: nothing when printed, false, empty, and an error when it is looked into.</summary>
internal sealed record Undefined(string Name);

/// <summary>What can be called.</summary>
internal delegate object? Callable(object?[] positional, IReadOnlyDictionary<string, object?> named);

/// <summary>namespace(): an object whose fields can be set.</summary>
internal sealed class Namespace(Dictionary<string, object?> fields)
{
    public Dictionary<string, object?> Fields => fields;
}
