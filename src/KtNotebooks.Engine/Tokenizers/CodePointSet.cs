using System.Globalization;
using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// A set of Unicode code points: what a class such as <c>[\p{L}\p{M}]</c> means.
/// Kept as sorted toggle points (a code point is in the set when an odd number of toggles is at or below it), so that complement, union and
/// intersection are a few lines; the basic plane is also a bitmap, because membership is asked for every character of a text.
/// .NET's own regex classes cannot serve: they judge UTF-16 units, so a character beyond U+FFFF would be two surrogates and never a letter.
/// </summary>
internal sealed class CodePointSet
{
    private const int End = 0x110000;

    private static readonly Lazy<int[][]> ByCategory = new(BuildCategories);

    private readonly int[] _toggles;
    private ulong[]? _bmp;

    private CodePointSet(int[] toggles) => _toggles = toggles;

    public static CodePointSet Empty { get; } = new([]);

    public static CodePointSet All { get; } = new([0]);

    /// <summary>All code points from <paramref name="first"/> to <paramref name="last"/>, both included.</summary>
    public static CodePointSet Range(int first, int last) => new(last + 1 < End ? [first, last + 1] : [first]);

    /// <summary>All code points of a set of ranges given as first, last, first, last, … in rising order.</summary>
    public static CodePointSet Ranges(params ReadOnlySpan<int> firstLast)
    {
        var set = Empty;
        for (var i = 0; i < firstLast.Length; i += 2)
            set |= Range(firstLast[i], firstLast[i + 1]);
        return set;
    }

    public static CodePointSet Of(UnicodeCategory category) => new(ByCategory.Value[(int)category]);

    public static CodePointSet operator |(CodePointSet a, CodePointSet b) => Combine(a, b, static (x, y) => x | y);

    public static CodePointSet operator &(CodePointSet a, CodePointSet b) => Combine(a, b, static (x, y) => x & y);

    public static CodePointSet operator ~(CodePointSet a) =>
        new(a._toggles is [0, .. var rest] ? rest : [0, .. a._toggles]);

    /// <summary>True when the set contains the code point.</summary>
    public bool Contains(int codePoint)
    {
        if (codePoint < 0x10000)
            return ((_bmp ??= BuildBmp())[codePoint >> 6] & (1UL << (codePoint & 63))) != 0;
        var at = Array.BinarySearch(_toggles, codePoint);
        return ((at >= 0 ? at + 1 : ~at) & 1) != 0;
    }

    /// <summary>
    /// The set with the other case of each of its letters, as <c>(?i:…)</c> asks. Single characters only: folds that change the length
    /// (ß and ss) do not occur in any tokenizer's pattern.
    /// </summary>
    public CodePointSet IgnoringCase()
    {
        var others = new List<int>();
        for (var i = 0; i < _toggles.Length; i += 2)
        {
            var end = i + 1 < _toggles.Length ? _toggles[i + 1] : End;
            for (var c = _toggles[i]; c < end; c++)
            {
                if (!Rune.TryCreate(c, out var rune))
                    continue;
                var lower = Rune.ToLowerInvariant(rune).Value;
                var upper = Rune.ToUpperInvariant(rune).Value;
                if (lower != c)
                    others.Add(lower);
                if (upper != c)
                    others.Add(upper);
                // The two letters outside ASCII that fold into it: long s and the Kelvin sign.
                if (lower == 's')
                    others.Add(0x17F);
                if (lower == 'k')
                    others.Add(0x212A);
            }
        }
        others.Sort();
        // Each letter alone would be a set as long as the one before: neighbours are joined first.
        var toggles = new List<int>();
        foreach (var c in others)
        {
            if (toggles.Count > 0 && toggles[^1] > c)
                continue;
            if (toggles.Count > 0 && toggles[^1] == c)
                toggles[^1] = c + 1;
            else
                toggles.AddRange([c, c + 1]);
        }
        return this | new CodePointSet([.. toggles]);
    }

    /// <summary>How many code points it holds.</summary>
    public int Count
    {
        get
        {
            var count = 0;
            for (var i = 0; i < _toggles.Length; i += 2)
                count += (i + 1 < _toggles.Length ? _toggles[i + 1] : End) - _toggles[i];
            return count;
        }
    }

    private static CodePointSet Combine(CodePointSet a, CodePointSet b, Func<bool, bool, bool> rule)
    {
        var result = new List<int>();
        int i = 0, j = 0;
        bool inA = false, inB = false, inside = false;
        while (i < a._toggles.Length || j < b._toggles.Length)
        {
            var nextA = i < a._toggles.Length ? a._toggles[i] : End;
            var nextB = j < b._toggles.Length ? b._toggles[j] : End;
            var at = Math.Min(nextA, nextB);
            if (nextA == at)
            {
                inA = !inA;
                i++;
            }
            if (nextB == at)
            {
                inB = !inB;
                j++;
            }
            if (rule(inA, inB) != inside)
            {
                inside = !inside;
                result.Add(at);
            }
        }
        return new CodePointSet([.. result]);
    }

    private static int[][] BuildCategories()
    {
        var toggles = new List<int>[30];
        for (var i = 0; i < toggles.Length; i++)
            toggles[i] = [];
        var last = -1;
        for (var c = 0; c < End; c++)
        {
            var category = (int)CharUnicodeInfo.GetUnicodeCategory(c);
            if (category == last)
                continue;
            if (last >= 0)
                toggles[last].Add(c);
            toggles[category].Add(c);
            last = category;
        }
        return [.. toggles.Select(t => t.ToArray())];
    }

    private ulong[] BuildBmp()
    {
        var bits = new ulong[0x10000 / 64];
        for (var i = 0; i < _toggles.Length; i += 2)
        {
            var end = Math.Min(i + 1 < _toggles.Length ? _toggles[i + 1] : End, 0x10000);
            for (var c = _toggles[i]; c < end; c++)
                bits[c >> 6] |= 1UL << (c & 63);
        }
        return bits;
    }
}
