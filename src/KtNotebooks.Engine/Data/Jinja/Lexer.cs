using System.Globalization;
using System.Text;

namespace KtNotebooks.Data.Jinja;

internal enum TokenKind
{
    Text,
    Open, // {% or {{
    Close, // %} or }}
    Name,
    String,
    Number,
    Operator,
    End,
}

/// <param name="Value">The text, a string's value, a long or a double.</param>
internal readonly record struct Token(TokenKind Kind, string Text, object? Value, int Line);

/// <summary>Cuts a template into texts and the tokens of its tags, with Jinja's rules of blank space around tags.</summary>
internal sealed class Lexer
{
    private static readonly string[] Operators =
        ["**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|", "="];

    private readonly string _source;
    private readonly List<Token> _tokens = [];
    private int _at;
    private int _line = 1;

    private Lexer(string source) => _source = source;

    public static IReadOnlyList<Token> Read(string source)
    {
        source = source.ReplaceLineEndings("\n");
        var lexer = new Lexer(source.EndsWith('\n') ? source[..^1] : source); // keep_trailing_newline is off
        lexer.Run();
        return lexer._tokens;
    }

    private void Run()
    {
        var (lineStarts, stripsNext) = (true, false);
        while (_at < _source.Length)
        {
            var open = NextTag();
            var text = _source[_at..open];
            Skip(open);
            if (stripsNext) text = text.TrimStart();
            if (open == _source.Length)
            {
                Add(text);
                break;
            }
            var (kind, sign) = (_source[open + 1], open + 2 < _source.Length ? _source[open + 2] : ' ');
            if (sign == '-') text = text.TrimEnd();
            else if (kind != '{' && sign != '+') text = WithoutIndent(text, lineStarts);
            Add(text);
            Skip(open + 2 + (sign is '-' or '+' ? 1 : 0));
            (lineStarts, stripsNext) = kind == '#' ? Comment() : Tag(kind == '{');
        }
        _tokens.Add(new Token(TokenKind.End, "", null, _line));
    }

    private int NextTag()
    {
        for (var i = _at; (i = _source.IndexOf('{', i)) >= 0 && i + 1 < _source.Length; i++)
            if (_source[i + 1] is '{' or '%' or '#') return i;
        return _source.Length;
    }

    // lstrip_blocks: what stands before a tag on its line goes when it is blank.
    private static string WithoutIndent(string text, bool lineStarts)
    {
        var line = text.LastIndexOf('\n') + 1;
        return (line > 0 || lineStarts) && text.AsSpan(line).IndexOfAnyExcept(" \t\v\f") < 0 ? text[..line] : text;
    }

    private void Add(string text)
    {
        if (text.Length > 0) _tokens.Add(new Token(TokenKind.Text, text, null, _line));
    }

    private void Skip(int to)
    {
        _line += _source.AsSpan(_at..to).Count('\n');
        _at = to;
    }

    private (bool LineStarts, bool StripsNext) Comment()
    {
        var end = _source.IndexOf("#}", _at, StringComparison.Ordinal);
        if (end < 0) throw new JinjaError("a comment {# has no end #}", _line);
        var strips = end > _at && _source[end - 1] == '-';
        Skip(end + 2);
        return (EatNewline(trims: !strips), strips);
    }

    // trim_blocks: the line end behind a block is part of it.
    private bool EatNewline(bool trims)
    {
        if (!trims || _at >= _source.Length || _source[_at] != '\n') return false;
        Skip(_at + 1);
        return true;
    }

    private (bool LineStarts, bool StripsNext) Tag(bool isPrint)
    {
        _tokens.Add(new Token(TokenKind.Open, isPrint ? "{{" : "{%", null, _line));
        var (first, close, depth) = (_tokens.Count, isPrint ? "}}" : "%}", 0);
        for (; ; )
        {
            while (_at < _source.Length && char.IsWhiteSpace(_source[_at])) Skip(_at + 1);
            if (_at >= _source.Length) throw new JinjaError($"a tag has no end {close}", _line);
            var sign = depth == 0 && _at + 2 < _source.Length && _source[_at] is '-' or '+' && string.CompareOrdinal(_source, _at + 1, close, 0, 2) == 0
                ? _source[_at] : ' ';
            if (sign != ' ' || (depth == 0 && string.CompareOrdinal(_source, _at, close, 0, 2) == 0))
            {
                Skip(_at + (sign == ' ' ? 2 : 3));
                _tokens.Add(new Token(TokenKind.Close, close, null, _line));
                if (!isPrint && _tokens.Count == first + 2 && _tokens[first].Text == "raw") return Raw();
                return (EatNewline(trims: !isPrint && sign == ' '), sign == '-');
            }
            var token = Next();
            if (token.Kind == TokenKind.Operator) depth += token.Text is "{" or "(" or "[" ? 1 : token.Text is "}" or ")" or "]" ? -1 : 0;
            _tokens.Add(token);
        }
    }

    private (bool LineStarts, bool StripsNext) Raw()
    {
        _tokens.RemoveRange(_tokens.Count - 3, 3);
        var end = _source.IndexOf("{% endraw %}", _at, StringComparison.Ordinal);
        if (end < 0) throw new JinjaError("{% raw %} has no {% endraw %}", _line);
        Add(_source[_at..end]);
        Skip(end + "{% endraw %}".Length);
        return (EatNewline(trims: true), false);
    }

    private Token Next()
    {
        var (line, c) = (_line, _source[_at]);
        if (c is '\'' or '"') return new Token(TokenKind.String, "", Quoted(c), line);
        if (char.IsAsciiDigit(c)) return Number(line);
        if (char.IsLetter(c) || c == '_')
        {
            var end = _at;
            while (end < _source.Length && (char.IsLetterOrDigit(_source[end]) || _source[end] == '_')) end++;
            var name = _source[_at..end];
            _at = end;
            return new Token(TokenKind.Name, name, null, line);
        }
        if (Array.Find(Operators, o => string.CompareOrdinal(_source, _at, o, 0, o.Length) == 0) is not { } found)
            throw new JinjaError($"'{c}' is not understood", line);
        _at += found.Length;
        return new Token(TokenKind.Operator, found, null, line);
    }

    private Token Number(int line)
    {
        var end = _at;
        while (end < _source.Length && (char.IsAsciiDigit(_source[end]) || _source[end] == '_')) end++;
        var isFloat = end + 1 < _source.Length && _source[end] == '.' && char.IsAsciiDigit(_source[end + 1]);
        if (isFloat) for (end++; end < _source.Length && char.IsAsciiDigit(_source[end]); end++) { }
        if (end + 1 < _source.Length && _source[end] is 'e' or 'E' && (char.IsAsciiDigit(_source[end + 1]) || _source[end + 1] is '+' or '-'))
        {
            isFloat = true;
            for (end += 2; end < _source.Length && char.IsAsciiDigit(_source[end]); end++) { }
        }
        var text = _source[_at..end].Replace("_", "", StringComparison.Ordinal);
        _at = end;
        return new Token(TokenKind.Number, text, isFloat ? (object)double.Parse(text, CultureInfo.InvariantCulture)
            : long.TryParse(text, CultureInfo.InvariantCulture, out var whole) ? whole : throw new JinjaError($"{text} is too large", line), line);
    }

    private string Quoted(char quote)
    {
        var (text, start) = (new StringBuilder(), _line);
        for (_at++; _at < _source.Length && _source[_at] != quote; _at++)
        {
            var c = _source[_at];
            if (c == '\n') _line++;
            if (c != '\\' || _at + 1 == _source.Length)
            {
                text.Append(c);
                continue;
            }
            var escape = _source[++_at];
            var digits = escape switch { 'x' => 2, 'u' => 4, _ => 0 };
            if (digits > 0 && _at + digits < _source.Length
                && int.TryParse(_source.AsSpan(_at + 1, digits), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out var code))
            {
                text.Append((char)code);
                _at += digits;
                continue;
            }
            _ = escape switch
            {
                'n' => text.Append('\n'),
                't' => text.Append('\t'),
                'r' => text.Append('\r'),
                '\\' or '\'' or '"' => text.Append(escape),
                _ => text.Append('\\').Append(escape),
            };
        }
        if (_at >= _source.Length) throw new JinjaError("a string has no end", start);
        _at++;
        return text.ToString();
    }
}
