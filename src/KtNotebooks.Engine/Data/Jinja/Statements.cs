using System.Text;

namespace KtNotebooks.Data.Jinja;

/// <summary>How a statement ended: a loop is to be left or gone on with.</summary>
internal enum Flow
{
    On,
    Break,
    Continue,
}

internal abstract record Statement
{
    public abstract Flow Run(Scope scope, StringBuilder text);

    public static Flow RunAll(Statement[] body, Scope scope, StringBuilder text)
    {
        foreach (var statement in body)
            if (statement.Run(scope, text) is var flow and not Flow.On) return flow;
        return Flow.On;
    }

    protected static string Capture(Statement[] body, Scope scope)
    {
        var text = new StringBuilder();
        RunAll(body, scope, text);
        return text.ToString();
    }

    /// <summary>Gives an error that knows no line this one.</summary>
    public static T At<T>(int line, Func<T> work)
    {
        try
        {
            return work();
        }
        catch (JinjaError error) when (error.Line == 0)
        {
            throw new JinjaError(error.Message, line);
        }
    }
}

internal sealed record TextOut(string Text) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        text.Append(Text);
        return Flow.On;
    }
}

internal sealed record Print(Expression Value, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        text.Append(At(Line, () => Values.Text(Value.Eval(scope))));
        return Flow.On;
    }
}

internal sealed record Group(Statement[] Body) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text) => RunAll(Body, scope, text);
}

internal sealed record Leave(bool Breaks) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text) => Breaks ? Flow.Break : Flow.Continue;
}

internal sealed record If((Expression? Condition, Statement[] Body)[] Arms, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        foreach (var (condition, body) in Arms)
            if (condition is null || At(Line, () => Values.IsTrue(condition.Eval(scope)))) return RunAll(body, scope, text);
        return Flow.On;
    }
}

internal sealed record For(string[] Targets, Expression Items, Expression? Condition, Statement[] Body, Statement[] Otherwise, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        var items = At(Line, () => Values.Items(Items.Eval(scope)).ToList());
        if (Condition is not null) items = [.. items.Where(item => At(Line, () => Values.IsTrue(Condition.Eval(With(scope, item)))))];
        if (items.Count == 0) return RunAll(Otherwise, scope, text);
        for (var i = 0; i < items.Count; i++)
        {
            var inner = With(scope, items[i]);
            inner.Values["loop"] = Loop(items, i);
            if (RunAll(Body, inner, text) == Flow.Break) break;
        }
        return Flow.On;
    }

    private Scope With(Scope scope, object? item)
    {
        var inner = new Scope(scope);
        At(Line, () => Assign(inner, Targets, item));
        return inner;
    }

    private static Dictionary<string, object?> Loop(List<object?> items, int i) => new(StringComparer.Ordinal)
    {
        ["index"] = i + 1L,
        ["index0"] = (long)i,
        ["revindex"] = (long)(items.Count - i),
        ["revindex0"] = items.Count - i - 1L,
        ["first"] = i == 0,
        ["last"] = i == items.Count - 1,
        ["length"] = (long)items.Count,
        ["previtem"] = i > 0 ? items[i - 1] : new Undefined("loop.previtem"),
        ["nextitem"] = i + 1 < items.Count ? items[i + 1] : new Undefined("loop.nextitem"),
    };

    public static bool Assign(Scope scope, string[] names, object? value)
    {
        if (names is [var name])
        {
            scope.Values[name] = value;
            return true;
        }
        object?[] parts = [.. Values.Items(value)];
        if (parts.Length != names.Length) throw JinjaError.Without($"{parts.Length} values cannot be given to {names.Length} names");
        for (var i = 0; i < names.Length; i++) scope.Values[names[i]] = parts[i];
        return true;
    }
}

internal sealed record SetNames(string[] Names, Expression Value, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        At(Line, () => For.Assign(scope, Names, Value.Eval(scope)));
        return Flow.On;
    }
}

internal sealed record SetField(string Name, string Field, Expression Value, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        if (scope.Find(Name) is not Namespace target) throw new JinjaError($"fields can be set of a namespace alone, and '{Name}' is none", Line);
        target.Fields[Field] = At(Line, () => Value.Eval(scope));
        return Flow.On;
    }
}

internal sealed record SetBlock(string Name, Statement[] Body, Expression? Filter, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        var value = Capture(Body, new Scope(scope));
        scope.Values[Name] = Filter is null ? value : At(Line, () => Captured.Through(Filter, value, scope));
        return Flow.On;
    }
}

internal sealed record Filtered(Statement[] Body, Expression Filter, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        var value = Capture(Body, new Scope(scope));
        text.Append(At(Line, () => Values.Text(Captured.Through(Filter, value, scope))));
        return Flow.On;
    }
}

internal sealed record DefineMacro(string Name, (string Name, Expression? Default)[] Parameters, Statement[] Body, int Line) : Statement
{
    private const int Deepest = 200;

    public override Flow Run(Scope scope, StringBuilder text)
    {
        var depth = 0;
        Callable macro = (positional, named) =>
        {
            if (positional.Length > Parameters.Length)
                throw JinjaError.Without($"the macro '{Name}' takes {Parameters.Length} values, not {positional.Length}");
            if (++depth > Deepest) throw JinjaError.Without($"the macro '{Name}' calls itself without end");
            var inner = new Scope(scope);
            for (var i = 0; i < Parameters.Length; i++)
            {
                var (parameter, missing) = Parameters[i];
                inner.Values[parameter] = i < positional.Length ? positional[i] : named.TryGetValue(parameter, out var value) ? value
                    : missing is null ? new Undefined(parameter) : missing.Eval(inner);
            }
            if (named.TryGetValue("caller", out var caller)) inner.Values["caller"] = caller;
            var result = Capture(Body, inner);
            depth--;
            return result;
        };
        scope.Values[Name] = macro;
        return Flow.On;
    }
}

internal sealed record CallBlock(Call Call, Statement[] Body, int Line) : Statement
{
    public override Flow Run(Scope scope, StringBuilder text)
    {
        Callable caller = (_, _) => Capture(Body, new Scope(scope));
        text.Append(At(Line, () => Values.Text(Call.Eval(scope, ("caller", caller)))));
        return Flow.On;
    }
}
