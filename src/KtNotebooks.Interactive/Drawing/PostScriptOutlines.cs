using System.Buffers.Binary;

namespace KtNotebooks.Interactive.Drawing;

/// <summary>
/// The table "CFF ": cubic curves, drawn by a small program for each letter (Adobe's technical notes 5176 and 5177). Hints are skipped, arithmetic, which no
/// font of Chinese letters uses, is refused.
/// </summary>
internal sealed class PostScriptOutlines : IGlyphOutlines
{
    private const int Deepest = 10;
    private readonly ReadOnlyMemory<byte> _table;
    private readonly Range[] _letters, _global;
    private readonly Range[][] _local;
    private readonly int _select = -1;

    public PostScriptOutlines(ReadOnlyMemory<byte> table)
    {
        _table = table;
        int at = table.Span[2];
        Index(ref at); // names
        var tops = Index(ref at);
        Index(ref at); // texts
        _global = Index(ref at);
        var top = Dictionary(tops[0]);
        var letters = (int)top[17][0];
        _letters = Index(ref letters);
        if (top.TryGetValue(Escaped(36), out var fonts))
        {
            var array = (int)fonts[0];
            _local = [.. Index(ref array).Select(font => Routines(Dictionary(font)))];
            _select = (int)top[Escaped(37)][0];
        }
        else _local = [Routines(top)];
    }

    public List<Point[]> Of(int glyph)
    {
        var program = new Program(this, _local[_select < 0 ? 0 : FontOf(glyph)]);
        program.Run(_letters[glyph], depth: 0);
        program.Pen.Close();
        return program.Pen.Done;
    }

    private static int Escaped(int op) => 1200 + op;

    /// <summary>Which of the parts of the font, each with its own subroutines, a letter is in.</summary>
    private int FontOf(int glyph)
    {
        var bytes = _table.Span;
        if (bytes[_select] == 0) return bytes[_select + 1 + glyph];
        var ranges = Short(_select + 1);
        for (var i = ranges - 1; i >= 0; i--)
            if (Short(_select + 3 + 3 * i) <= glyph) return bytes[_select + 3 + 3 * i + 2];
        throw new InvalidDataException($"[OutlineFont] letter {glyph} is in no part of the font");
    }

    private Range[] Routines(Dictionary<int, List<double>> font)
    {
        if (!font.TryGetValue(18, out var place)) return [];
        var (length, start) = ((int)place[0], (int)place[1]);
        if (!Dictionary(start..(start + length)).TryGetValue(19, out var routines)) return [];
        var at = start + (int)routines[0];
        return Index(ref at);
    }

    private Range[] Index(ref int at)
    {
        var count = Short(at);
        if (count == 0)
        {
            at += 2;
            return [];
        }
        int size = _table.Span[at + 2], offsets = at + 3, data = offsets + (count + 1) * size - 1;
        var found = new Range[count];
        for (var i = 0; i < count; i++) found[i] = (data + Offset(i))..(data + Offset(i + 1));
        at = data + Offset(count);
        return found;

        int Offset(int i)
        {
            var value = 0;
            for (var b = 0; b < size; b++) value = value << 8 | _table.Span[offsets + i * size + b];
            return value;
        }
    }

    private Dictionary<int, List<double>> Dictionary(Range range)
    {
        var bytes = _table[range].Span;
        Dictionary<int, List<double>> entries = [];
        List<double> values = [];
        for (var i = 0; i < bytes.Length;)
        {
            int b = bytes[i++];
            if (b <= 21)
            {
                entries[b == 12 ? Escaped(bytes[i++]) : b] = values;
                values = [];
            }
            else if (b == 28) (_, i) = (Add(BinaryPrimitives.ReadInt16BigEndian(bytes[i..])), i + 2);
            else if (b == 29) (_, i) = (Add(BinaryPrimitives.ReadInt32BigEndian(bytes[i..])), i + 4);
            else if (b == 30)
            {
                while ((bytes[i] & 15) != 15 && bytes[i] >> 4 != 15) i++; // a fraction; none that is needed is one
                Add(0);
                i++;
            }
            else if (b <= 246) Add(b - 139);
            else if (b <= 250) Add((b - 247) * 256 + bytes[i++] + 108);
            else Add(-(b - 251) * 256 - bytes[i++] - 108);
        }
        return entries;

        int Add(double value)
        {
            values.Add(value);
            return values.Count;
        }
    }

    private int Short(int at) => BinaryPrimitives.ReadUInt16BigEndian(_table.Span[at..]);

    /// <summary>A letter's program: numbers go on a stack, operators take all of it.</summary>
    private sealed class Program(PostScriptOutlines font, Range[] local)
    {
        private readonly List<double> _stack = [];
        private int _stems;
        private bool _ended;

        public OutlinePen Pen { get; } = new();

        public void Run(Range range, int depth)
        {
            if (depth > Deepest) throw new InvalidDataException("[OutlineFont] subroutines too deep");
            var code = font._table[range].Span;
            for (var i = 0; i < code.Length && !_ended;)
            {
                int b = code[i++];
                if (b == 28)
                {
                    _stack.Add(BinaryPrimitives.ReadInt16BigEndian(code[i..]));
                    i += 2;
                }
                else if (b == 255)
                {
                    _stack.Add(BinaryPrimitives.ReadInt32BigEndian(code[i..]) / 65536.0);
                    i += 4;
                }
                else if (b >= 251) _stack.Add(-(b - 251) * 256 - code[i++] - 108);
                else if (b >= 247) _stack.Add((b - 247) * 256 + code[i++] + 108);
                else if (b >= 32) _stack.Add(b - 139);
                else if (b is 10 or 29)
                {
                    var routines = b == 10 ? local : font._global;
                    var number = (int)_stack[^1] + (routines.Length < 1240 ? 107 : routines.Length < 33900 ? 1131 : 32768);
                    _stack.RemoveAt(_stack.Count - 1);
                    Run(routines[number], depth + 1);
                }
                else if (b == 11) return;
                else if (b is 19 or 20) // a mask of hints, a bit each
                {
                    _stems += _stack.Count / 2;
                    i += (_stems + 7) / 8;
                    _stack.Clear();
                }
                else
                {
                    Draw(b == 12 ? Escaped(code[i++]) : b);
                    _stack.Clear();
                }
            }
        }

        private void Draw(int op)
        {
            var s = _stack;
            switch (op)
            {
                case 1 or 3 or 18 or 23: _stems += s.Count / 2; break;
                case 14: _ended = true; break;
                case 21: Pen.Move(By(s[^2], s[^1])); break; // what stands before is the width
                case 22: Pen.Move(By(s[^1], 0)); break;
                case 4: Pen.Move(By(0, s[^1])); break;
                case 5: Lines(s.Count); break;
                case 6: Alternate(horizontal: true); break;
                case 7: Alternate(horizontal: false); break;
                case 8: Curves(0, s.Count); break;
                case 24: // curves, and a line at the end
                    Curves(0, s.Count - 2);
                    Pen.Line(By(s[^2], s[^1]));
                    break;
                case 25: // lines, and a curve at the end
                    Lines(s.Count - 6);
                    Curves(s.Count - 6, s.Count);
                    break;
                case 26: Smooth(vertical: true); break;
                case 27: Smooth(vertical: false); break;
                case 30: Turns(horizontal: false); break;
                case 31: Turns(horizontal: true); break;
                case 1234: Curve(s[0], 0, s[1], s[2], s[3], 0); Curve(s[4], 0, s[5], -s[2], s[6], 0); break;
                case 1235: Curves(0, 12); break;
                case 1236: Curve(s[0], s[1], s[2], s[3], s[4], 0); Curve(s[5], 0, s[6], s[7], s[8], -(s[1] + s[3] + s[7])); break;
                case 1237:
                    double x = s[0] + s[2] + s[4] + s[6] + s[8], y = s[1] + s[3] + s[5] + s[7] + s[9];
                    Curves(0, 6);
                    var isWide = Math.Abs(x) > Math.Abs(y);
                    Curve(s[6], s[7], s[8], s[9], isWide ? s[10] : -x, isWide ? -y : s[10]);
                    break;
                default: throw new InvalidDataException($"[OutlineFont] a letter's program uses the operator {op}");
            }
        }

        private Point By(double dx, double dy) => new(Pen.At.X + dx, Pen.At.Y + dy);

        private void Lines(int count)
        {
            for (var i = 0; i + 1 < count; i += 2) Pen.Line(By(_stack[i], _stack[i + 1]));
        }

        private void Alternate(bool horizontal)
        {
            foreach (var d in _stack)
            {
                Pen.Line(horizontal ? By(d, 0) : By(0, d));
                horizontal = !horizontal;
            }
        }

        private void Curves(int from, int to)
        {
            var s = _stack;
            for (var i = from; i + 5 < to; i += 6) Curve(s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4], s[i + 5]);
        }

        private void Curve(double ax, double ay, double bx, double by, double cx, double cy)
        {
            var a = By(ax, ay);
            Point b = new(a.X + bx, a.Y + by), c = new(a.X + bx + cx, a.Y + by + cy);
            Pen.Curve(a, b, c);
        }

        /// <summary>Curves that begin and end along one axis; one number more at the start bends the first.</summary>
        private void Smooth(bool vertical)
        {
            var i = _stack.Count % 4;
            for (var aside = i > 0 ? _stack[0] : 0; i + 3 < _stack.Count; i += 4, aside = 0)
            {
                if (vertical) Curve(aside, _stack[i], _stack[i + 1], _stack[i + 2], 0, _stack[i + 3]);
                else Curve(_stack[i], aside, _stack[i + 1], _stack[i + 2], _stack[i + 3], 0);
            }
        }

        /// <summary>Curves that begin along one axis and end along the other, by turns; one number more at the end bends the last.</summary>
        private void Turns(bool horizontal)
        {
            for (var i = 0; i + 3 < _stack.Count; i += 4, horizontal = !horizontal)
            {
                var aside = _stack.Count - i == 5 ? _stack[i + 4] : 0;
                if (horizontal) Curve(_stack[i], 0, _stack[i + 1], _stack[i + 2], aside, _stack[i + 3]);
                else Curve(0, _stack[i], _stack[i + 1], _stack[i + 2], _stack[i + 3], aside);
            }
        }
    }
}
