namespace KtNotebooks.Data.Jinja;

/// <summary>Tokens → statements and expressions, with Jinja's precedences.</summary>
internal sealed class Parser(IReadOnlyList<Token> tokens)
{
    private static readonly string[] Comparisons = ["==", "!=", "<", ">", "<=", ">="];

    /// <summary>Tags of Jinja that no chat template needs.</summary>
    private static readonly string[] NotHere = ["include", "import", "from", "extends", "block", "autoescape", "trans", "do", "with"];

    private int _at;

    private Token Now => tokens[_at];

    public Statement[] Template() => Body();

    /// <summary>Statements up to a tag of one of these names, whose name is left to be read; none: to the end.</summary>
    private Statement[] Body(params ReadOnlySpan<string> ends)
    {
        List<Statement> all = [];
        for (; ; )
        {
            var token = Now;
            _at++;
            switch (token.Kind)
            {
                case TokenKind.End when ends.Length == 0:
                    return [.. all];
                case TokenKind.End:
                    throw new JinjaError($"{{% {ends[^1]} %}} is missing", token.Line);
                case TokenKind.Text:
                    all.Add(new TextOut(token.Text));
                    break;
                case TokenKind.Open when token.Text == "{{":
                    all.Add(new Print(Tuple(), token.Line));
                    Close();
                    break;
                default:
                    if (ends.Contains(Now.Text)) return [.. all];
                    all.Add(Tag(token.Line));
                    break;
            }
        }
    }

    private Statement Tag(int line)
    {
        var name = Name("a tag");
        switch (name)
        {
            case "if": return If(line);
            case "for": return For(line);
            case "set": return Set(line);
            case "macro": return Macro(line);
            case "generation":
                Close();
                var body = Body("endgeneration");
                End();
                return new Group(body);
            case "break" or "continue":
                Close();
                return new Leave(name == "break");
            case "filter":
                var filter = Filters(Filter(new Captured(), line));
                Close();
                var filtered = Body("endfilter");
                End();
                return new Filtered(filtered, filter, line);
            case "call":
                var call = Expression();
                Close();
                var inner = Body("endcall");
                End();
                return new CallBlock(call as Call ?? throw new JinjaError("{% call %} needs a call of a macro", line), inner, line);
            default:
                throw new JinjaError(NotHere.Contains(name) ? $"{{% {name} %}} is not run here: no chat template of a known model needs it"
                    : $"{{% {name} %}} is no tag that is known here", line);
        }
    }

    private If If(int line)
    {
        List<(Expression?, Statement[])> arms = [];
        var condition = Tuple();
        for (; ; )
        {
            Close();
            var body = Body("elif", "else", "endif");
            arms.Add((condition, body));
            switch (Name("endif"))
            {
                case "elif":
                    condition = Tuple();
                    continue;
                case "else":
                    Close();
                    arms.Add((null, Body("endif")));
                    _at++;
                    break;
            }
            Close();
            return new If([.. arms], line);
        }
    }

    private For For(int line)
    {
        var targets = Targets();
        if (Name("in") != "in") throw new JinjaError("{% for … %} needs 'in'", line);
        var items = Or();
        while (Is(",")) throw new JinjaError("{% for %} over a list without brackets is not known here", line);
        var condition = IsName("if") ? Expression() : null;
        if (IsName("recursive")) throw new JinjaError("{% for … recursive %} is not run here", line);
        Close();
        var body = Body("else", "endfor");
        Statement[] otherwise = [];
        if (Name("endfor") == "else")
        {
            Close();
            otherwise = Body("endfor");
            _at++;
        }
        Close();
        return new For(targets, items, condition, body, otherwise, line);
    }

    private Statement Set(int line)
    {
        var first = Name("a name to set");
        if (Is("."))
        {
            var field = Name("a field to set");
            Operator("=");
            var of = Tuple();
            Close();
            return new SetField(first, field, of, line);
        }
        List<string> names = [first];
        while (Is(",")) names.Add(Name("a name to set"));
        if (Is("="))
        {
            var value = Tuple();
            Close();
            return new SetNames([.. names], value, line);
        }
        var filter = Now.Text == "|" ? Filters(new Captured()) : null;
        Close();
        var body = Body("endset");
        End();
        return new SetBlock(first, body, filter, line);
    }

    private DefineMacro Macro(int line)
    {
        var name = Name("the macro's name");
        Operator("(");
        List<(string, Expression?)> parameters = [];
        while (!Is(")"))
        {
            if (parameters.Count > 0) Operator(",");
            var parameter = Name("a parameter");
            parameters.Add((parameter, Is("=") ? Expression() : null));
        }
        Close();
        var body = Body("endmacro");
        End();
        return new DefineMacro(name, [.. parameters], body, line);
    }

    private string[] Targets()
    {
        var brackets = Is("(");
        List<string> names = [Name("a name")];
        while (Is(",")) names.Add(Name("a name"));
        if (brackets) Operator(")");
        return [.. names];
    }

    /// <summary>An expression, or several with commas as a list.</summary>
    private Expression Tuple()
    {
        var first = Expression();
        if (Now.Text != "," || Now.Kind != TokenKind.Operator) return first;
        List<Expression> all = [first];
        while (Is(","))
            if (Now.Kind != TokenKind.Close) all.Add(Expression());
        return new ListOf([.. all]);
    }

    public Expression Expression()
    {
        var value = Or();
        while (IsName("if"))
        {
            var condition = Or();
            value = new Choose(condition, value, IsName("else") ? Expression() : null);
        }
        return value;
    }

    private Expression Or()
    {
        var left = And();
        while (IsName("or")) left = new Either(left, And(), Stops: true);
        return left;
    }

    private Expression And()
    {
        var left = Not();
        while (IsName("and")) left = new Either(left, Not(), Stops: false);
        return left;
    }

    private Expression Not() => IsName("not") ? new Negate(Not()) : Compare();

    private Expression Compare()
    {
        var first = Sum();
        List<(string, Expression)> rest = [];
        for (; ; )
        {
            var line = Now.Line;
            if (Now.Kind == TokenKind.Operator && Comparisons.Contains(Now.Text))
            {
                var sign = Now.Text;
                _at++;
                rest.Add((sign, Sum()));
            }
            else if (IsName("in")) rest.Add(("in", Sum()));
            else if (Now.Text == "not" && tokens[_at + 1].Text == "in")
            {
                _at += 2;
                rest.Add(("not in", Sum()));
            }
            else return rest.Count == 0 ? first : new Comparison(first, [.. rest], line);
        }
    }

    private Expression Sum() => Chain(() => Chain(Product, "~"), "+", "-");

    private Expression Product() => Chain(Power, "*", "/", "//", "%");

    private Expression Power() => Chain(Unary, "**");

    private Expression Chain(Func<Expression> part, params ReadOnlySpan<string> signs)
    {
        var left = part();
        while (Now.Kind == TokenKind.Operator && signs.Contains(Now.Text))
        {
            var (sign, line) = (Now.Text, Now.Line);
            _at++;
            left = new Arithmetic(sign, left, part(), line);
        }
        return left;
    }

    private Expression Unary(bool filtered)
    {
        var line = Now.Line;
        Expression value = Is("-") ? new Arithmetic("-", new Constant(0L), Unary(false), line) : Is("+") ? Unary(false) : Postfix(Primary());
        return filtered ? Filters(Postfix(value)) : value;
    }

    private Expression Unary() => Unary(filtered: true);

    private Expression Primary()
    {
        var token = Now;
        _at++;
        switch (token.Kind)
        {
            case TokenKind.String:
                var text = (string)token.Value!;
                for (; Now.Kind == TokenKind.String; _at++) text += (string)Now.Value!;
                return new Constant(text);
            case TokenKind.Number:
                return new Constant(token.Value);
            case TokenKind.Name:
                return token.Text switch
                {
                    "true" or "True" => new Constant(true),
                    "false" or "False" => new Constant(false),
                    "none" or "None" => new Constant(null),
                    _ => new Variable(token.Text),
                };
            case TokenKind.Operator when token.Text == "(":
                if (Is(")")) return new ListOf([]);
                var inner = Expression();
                if (Now.Text == ",")
                {
                    List<Expression> all = [inner];
                    while (Is(","))
                        if (Now.Text != ")") all.Add(Expression());
                    inner = new ListOf([.. all]);
                }
                Operator(")");
                return inner;
            case TokenKind.Operator when token.Text == "[":
                List<Expression> items = [];
                while (!Is("]"))
                {
                    if (items.Count > 0) Operator(",");
                    if (Is("]")) break;
                    items.Add(Expression());
                }
                return new ListOf([.. items]);
            case TokenKind.Operator when token.Text == "{":
                List<(Expression, Expression)> pairs = [];
                while (!Is("}"))
                {
                    if (pairs.Count > 0) Operator(",");
                    if (Is("}")) break;
                    var key = Expression();
                    Operator(":");
                    pairs.Add((key, Expression()));
                }
                return new DictOf([.. pairs]);
            default:
                throw new JinjaError($"'{(token.Kind == TokenKind.End ? "the end" : token.Text)}' is not expected here", token.Line);
        }
    }

    private Expression Postfix(Expression value)
    {
        for (; ; )
        {
            var line = Now.Line;
            if (Is("."))
            {
                var field = Now.Kind == TokenKind.Number ? Now.Value : Now.Text;
                _at++;
                value = new Member(value, new Constant(field), ByDot: true, line);
            }
            else if (Is("[")) value = Subscript(value, line);
            else if (Is("(")) value = new Call(value, Arguments(), line);
            else return value;
        }
    }

    private Expression Subscript(Expression value, int line)
    {
        Expression? Part() => Now.Text is ":" or "]" && Now.Kind == TokenKind.Operator ? null : Expression();
        var first = Part();
        if (Is("]")) return new Member(value, first ?? throw new JinjaError("[] is empty", line), ByDot: false, line);
        Operator(":");
        var last = Part();
        var step = Is(":") ? Part() : null;
        Operator("]");
        return new Slice(value, first, last, step, line);
    }

    private Arguments Arguments()
    {
        List<Expression> positional = [];
        List<(string, Expression)> named = [];
        while (!Is(")"))
        {
            if (positional.Count + named.Count > 0) Operator(",");
            if (Is(")")) break;
            if (Now.Kind == TokenKind.Name && tokens[_at + 1] is { Kind: TokenKind.Operator, Text: "=" })
            {
                var name = Name("");
                _at++;
                named.Add((name, Expression()));
            }
            else positional.Add(Expression());
        }
        return new Arguments([.. positional], [.. named]);
    }

    private Expression Filters(Expression value)
    {
        for (; ; )
        {
            var line = Now.Line;
            if (Is("|")) value = Filter(value, line);
            else if (IsName("is"))
            {
                var not = IsName("not");
                var name = Name("a test");
                var arguments = Is("(") ? Arguments() : TakesOperand() ? new Arguments([Postfix(Primary())], []) : Jinja.Arguments.None;
                value = new Ask(value, Tests.Find(name, line), arguments, line);
                if (not) value = new Negate(value);
            }
            else if (Is("(")) value = new Call(value, Arguments(), line);
            else return value;
        }
    }

    private Apply Filter(Expression value, int line)
    {
        var filter = Jinja.Filters.Find(Name("a filter"), line);
        return new Apply(value, filter, Is("(") ? Arguments() : Jinja.Arguments.None, line);
    }

    private bool TakesOperand() => Now.Kind is TokenKind.String or TokenKind.Number
        || (Now.Kind == TokenKind.Name && Now.Text is not ("else" or "or" or "and" or "is" or "if" or "not" or "in"))
        || (Now.Kind == TokenKind.Operator && Now.Text is "[" or "{");

    private void End()
    {
        _at++;
        Close();
    }

    private void Close()
    {
        if (Now.Kind != TokenKind.Close) throw new JinjaError($"'{Now.Text}' is not expected before the end of a tag", Now.Line);
        _at++;
    }

    private string Name(string what)
    {
        if (Now.Kind != TokenKind.Name) throw new JinjaError($"{what} is expected, not '{Now.Text}'", Now.Line);
        return tokens[_at++].Text;
    }

    private void Operator(string sign)
    {
        if (!Is(sign)) throw new JinjaError($"'{sign}' is expected, not '{Now.Text}'", Now.Line);
    }

    private bool Is(string sign)
    {
        if (Now.Kind != TokenKind.Operator || Now.Text != sign) return false;
        _at++;
        return true;
    }

    private bool IsName(string name)
    {
        if (Now.Kind != TokenKind.Name || Now.Text != name) return false;
        _at++;
        return true;
    }
}
