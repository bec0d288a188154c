namespace KtNotebooks.Data.Jinja;

internal abstract record Expression
{
    public abstract object? Eval(Scope scope);
}

internal sealed record Constant(object? Value) : Expression
{
    public override object? Eval(Scope scope) => Value;
}

internal sealed record Variable(string Name) : Expression
{
    public override object? Eval(Scope scope) => scope.Find(Name);
}

/// <summary>The text that a block's filters begin with.</summary>
internal sealed record Captured : Expression
{
    private const string Name = " captured";

    public override object? Eval(Scope scope) => scope.Find(Name);

    public static object? Through(Expression filters, string value, Scope scope)
    {
        var inner = new Scope(scope);
        inner.Values[Name] = value;
        return filters.Eval(inner);
    }
}

internal sealed record ListOf(Expression[] Items) : Expression
{
    public override object? Eval(Scope scope) => Items.Select(item => item.Eval(scope)).ToList();
}

internal sealed record DictOf((Expression Key, Expression Value)[] Pairs) : Expression
{
    public override object? Eval(Scope scope)
    {
        var all = new Dictionary<string, object?>(StringComparer.Ordinal);
        foreach (var (key, value) in Pairs) all[Values.Text(key.Eval(scope))] = value.Eval(scope);
        return all;
    }
}

internal sealed record Choose(Expression Condition, Expression Value, Expression? Otherwise) : Expression
{
    public override object? Eval(Scope scope) => Values.IsTrue(Condition.Eval(scope)) ? Value.Eval(scope)
        : Otherwise is null ? new Undefined("the value of an if without else") : Otherwise.Eval(scope);
}

/// <summary>or, and: the first value that decides.</summary>
/// <param name="Stops">The truth that decides.</param>
internal sealed record Either(Expression Left, Expression Right, bool Stops) : Expression
{
    public override object? Eval(Scope scope) => Left.Eval(scope) is var left && Values.IsTrue(left) == Stops ? left : Right.Eval(scope);
}

internal sealed record Negate(Expression Value) : Expression
{
    public override object? Eval(Scope scope) => !Values.IsTrue(Value.Eval(scope));
}

internal sealed record Comparison(Expression First, (string Sign, Expression Value)[] Rest, int Line) : Expression
{
    public override object? Eval(Scope scope)
    {
        var left = First.Eval(scope);
        foreach (var (sign, value) in Rest)
        {
            var right = value.Eval(scope);
            if (!Statement.At(Line, () => Holds(left, sign, right))) return false;
            left = right;
        }
        return true;
    }

    private static bool Holds(object? left, string sign, object? right) => sign switch
    {
        "==" => Values.AreEqual(left, right),
        "!=" => !Values.AreEqual(left, right),
        "in" => Values.Contains(right, left),
        "not in" => !Values.Contains(right, left),
        "<" => Values.Order(left, right) < 0,
        ">" => Values.Order(left, right) > 0,
        "<=" => Values.Order(left, right) <= 0,
        _ => Values.Order(left, right) >= 0,
    };
}

internal sealed record Arithmetic(string Sign, Expression Left, Expression Right, int Line) : Expression
{
    public override object? Eval(Scope scope)
    {
        var (left, right) = (Left.Eval(scope), Right.Eval(scope));
        return Statement.At(Line, () => Values.Compute(Sign, left, right));
    }
}

internal sealed record Member(Expression Of, Expression Key, bool ByDot, int Line) : Expression
{
    public override object? Eval(Scope scope)
    {
        var (of, key) = (Of.Eval(scope), Key.Eval(scope));
        return Statement.At(Line, () => Values.Member(of, key, ByDot));
    }
}

internal sealed record Slice(Expression Of, Expression? First, Expression? Last, Expression? Step, int Line) : Expression
{
    public override object? Eval(Scope scope)
    {
        long? Part(Expression? part) => part?.Eval(scope) switch
        {
            null => null,
            long number => number,
            var other => throw JinjaError.Without($"a border of a slice must be a whole number, but is {Values.Kind(other)}"),
        };
        return Statement.At(Line, () => Values.Slice(Of.Eval(scope), Part(First), Part(Last), Part(Step) ?? 1));
    }
}

internal sealed record Arguments(Expression[] Positional, (string Name, Expression Value)[] Named)
{
    public static Arguments None { get; } = new([], []);

    public object?[] Values(Scope scope) => [.. Positional.Select(p => p.Eval(scope))];

    public Dictionary<string, object?> ByName(Scope scope) => Named.ToDictionary(n => n.Name, n => n.Value.Eval(scope), StringComparer.Ordinal);
}

internal sealed record Call(Expression Of, Arguments Arguments, int Line) : Expression
{
    public override object? Eval(Scope scope) => Eval(scope, null);

    public object? Eval(Scope scope, (string Name, object? Value)? more)
    {
        var of = Of.Eval(scope);
        var named = Arguments.ByName(scope);
        if (more is { } one) named[one.Name] = one.Value;
        var positional = Arguments.Values(scope);
        return Statement.At(Line, () => of is Callable function ? function(positional, named) : throw JinjaError.Without(of is Undefined missing
            ? $"'{missing.Name}' is not known here and cannot be called" : $"{Values.Kind(of)} cannot be called"));
    }
}

/// <summary>value | filter(…).</summary>
internal sealed record Apply(Expression Value, Filter Filter, Arguments Arguments, int Line) : Expression
{
    public override object? Eval(Scope scope)
    {
        var (value, given) = (Value.Eval(scope), new Given(Arguments.Values(scope), Arguments.ByName(scope)));
        return Statement.At(Line, () => Filter(value, given));
    }
}

/// <summary>value is test(…).</summary>
internal sealed record Ask(Expression Value, Test Test, Arguments Arguments, int Line) : Expression
{
    public override object? Eval(Scope scope)
    {
        var (value, operands) = (Value.Eval(scope), Arguments.Values(scope));
        return Statement.At(Line, () => Test(value, operands));
    }
}
