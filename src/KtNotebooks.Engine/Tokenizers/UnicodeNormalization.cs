using System.Globalization;
using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Unicode's normalisation forms, by the algorithm of the standard (UAX #15): decompose, order marks by combining class, compose.
/// <c>string.Normalize</c> cannot serve: with InvariantGlobalization it returns its argument unchanged.
/// </summary>
internal static class UnicodeNormalization
{
    private const int HangulBase = 0xAC00;
    private const int HangulCount = 11172;
    private const int LeadBase = 0x1100;
    private const int VowelBase = 0x1161;
    private const int TailBase = 0x11A7;
    private const int VowelCount = 21;
    private const int TailCount = 28;

    private static readonly Lazy<Table> Data = new(Table.Read);

    /// <summary>The text in the given form; the same object when nothing can change.</summary>
    public static string Normalize(string text, NormalizationForm form)
    {
        var compatible = form is NormalizationForm.FormKC or NormalizationForm.FormKD;
        var composed = form is NormalizationForm.FormC or NormalizationForm.FormKC;
        // Below these code points nothing decomposes or combines (composed form C: below U+0300).
        var safe = composed && !compatible ? '\u0300' : '\u0080';
        if (text.AsSpan().IndexOfAnyExceptInRange('\0', (char)(safe - 1)) < 0)
            return text;

        var table = Data.Value;
        var codePoints = new List<int>(text.Length);
        for (var i = 0; i < text.Length;)
        {
            Decompose(table, Pattern.CodePointAt(text, i, out var length), compatible, codePoints);
            i += length;
        }
        Order(table, codePoints);
        if (composed)
            Compose(table, codePoints);

        var result = new StringBuilder(text.Length);
        foreach (var c in codePoints)
        {
            if (c < 0x10000)
                result.Append((char)c);
            else
                result.Append(new Rune(c));
        }
        return result.ToString();
    }

    private static void Decompose(Table table, int c, bool compatible, List<int> into)
    {
        if (c - HangulBase is >= 0 and < HangulCount and var syllable)
        {
            into.Add(LeadBase + (syllable / (VowelCount * TailCount)));
            into.Add(VowelBase + (syllable / TailCount % VowelCount));
            if (syllable % TailCount is > 0 and var tail)
                into.Add(TailBase + tail);
        }
        else if (c >= 0x80 && table.Decompositions.TryGetValue(c, out var entry) && (compatible || !entry.Compatible))
        {
            foreach (var part in entry.Parts)
                Decompose(table, part, compatible, into);
        }
        else
        {
            into.Add(c);
        }
    }

    /// <summary>Sorts each run of marks by combining class, stably.</summary>
    private static void Order(Table table, List<int> text)
    {
        for (var start = 0; start < text.Count;)
        {
            if (table.Class(text[start]) == 0)
            {
                start++;
                continue;
            }
            var end = start + 1;
            while (end < text.Count && table.Class(text[end]) != 0)
                end++;
            // OrderBy is stable and n log n: a long run of marks is a known way to stall a normaliser.
            var marks = text.GetRange(start, end - start).OrderBy(table.Class).ToList();
            for (var i = 0; i < marks.Count; i++)
                text[start + i] = marks[i];
            start = end;
        }
    }

    private static void Compose(Table table, List<int> text)
    {
        var starter = -1;
        var lastClass = -1; // of the last character kept since the starter; -1: none
        var kept = 0;
        for (var i = 0; i < text.Count; i++)
        {
            var c = text[i];
            var mark = table.Class(c);
            if (starter >= 0 && lastClass < mark && Pair(table, text[starter], c) is int composite)
            {
                text[starter] = composite;
                continue;
            }
            if (mark == 0)
            {
                starter = kept;
                lastClass = -1;
            }
            else
            {
                lastClass = mark;
            }
            text[kept++] = c;
        }
        text.RemoveRange(kept, text.Count - kept);
    }

    private static int? Pair(Table table, int first, int second)
    {
        if (first - LeadBase is >= 0 and < 19 and var lead && second - VowelBase is >= 0 and < VowelCount and var vowel)
            return HangulBase + (((lead * VowelCount) + vowel) * TailCount);
        if (first - HangulBase is >= 0 and < HangulCount and var syllable && syllable % TailCount == 0 && second - TailBase is > 0 and < TailCount and var tail)
            return first + tail;
        return table.Compositions.TryGetValue((first, second), out var c) ? c : null;
    }

    private sealed class Table
    {
        public Dictionary<int, (bool Compatible, int[] Parts)> Decompositions { get; } = [];

        public Dictionary<(int, int), int> Compositions { get; } = [];

        private Dictionary<int, int> Classes { get; } = [];

        public int Class(int c) => c < 0x300 ? 0 : Classes.GetValueOrDefault(c);

        public static Table Read()
        {
            var table = new Table();
            using var stream = typeof(Table).Assembly.GetManifestResourceStream("UnicodeDecompositions.txt")
                ?? throw new InvalidOperationException("The engine was built without its resource UnicodeDecompositions.txt.");
            using var reader = new StreamReader(stream);
            while (reader.ReadLine() is { } line)
            {
                if (line.StartsWith('#'))
                    continue;
                var fields = line.Split(';');
                var c = Hex(fields[0]);
                if (fields[1].Length > 0)
                    table.Classes[c] = int.Parse(fields[1], CultureInfo.InvariantCulture);
                if (fields[2].Length == 0)
                    continue;
                int[] parts = [.. fields[2][1..].Split(' ').Select(Hex)];
                table.Decompositions[c] = (fields[2][0] == '~', parts);
                if (fields[2][0] == '=')
                    table.Compositions[(parts[0], parts[1])] = c;
            }
            return table;
        }

        private static int Hex(string text) => int.Parse(text, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
    }
}
