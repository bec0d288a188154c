using System.Globalization;

namespace KtNotebooks.Segmentation;

/// <summary>
/// jieba's hidden Markov model for words that the dictionary lacks: states B, E, M, S (begin, end, middle of a word, single character) over ideographs, the
/// best path by Viterbi. ln-probabilities come from the package's prob_start.py, prob_trans.py and prob_emit.py. Equal scores are decided as Python's max
/// over (score, letter) decides: the later letter wins.
/// </summary>
internal sealed class HiddenMarkov
{
    private const double Floor = -3.14e100;
    private const int States = 4;
    private const string Letters = "BEMS"; // in the order of the letters, so that comparing states compares letters

    /// <summary>The two states that can stand before each state.</summary>
    private static readonly (int Low, int High)[] Before = [(1, 3), (0, 2), (0, 2), (1, 3)];

    private readonly double[] _start = new double[States];
    private readonly double[,] _transitions = new double[States, States];
    private readonly double[] _emissions = new double[States * (char.MaxValue + 1)];

    /// <exception cref="InvalidDataException">A file is not a Python dictionary of numbers; it is named with the place.</exception>
    public static HiddenMarkov Load(string folder)
    {
        var model = new HiddenMarkov();
        Array.Fill(model._emissions, Floor);
        for (var from = 0; from < States; from++)
            for (var to = 0; to < States; to++) model._transitions[from, to] = Floor;
        Read(Path.Combine(folder, "prob_start.py"), (_, key, value) => model._start[StateOf(key)] = value);
        Read(Path.Combine(folder, "prob_trans.py"), (state, key, value) => model._transitions[StateOf(state), StateOf(key)] = value);
        Read(Path.Combine(folder, "prob_emit.py"), (state, key, value) => model._emissions[(key * States) + StateOf(state)] = value);
        return model;
    }

    /// <summary>Appends the ends of the words of a run of ideographs; positions are counted from <paramref name="offset"/>.</summary>
    /// <param name="back">Scratch of at least 4 · run bytes: the state before, by character and state.</param>
    public void Cut(ReadOnlySpan<char> run, int offset, Span<byte> back, List<int> ends)
    {
        Span<double> score = stackalloc double[States], next = stackalloc double[States];
        for (var y = 0; y < States; y++) score[y] = _start[y] + _emissions[(run[0] * States) + y];
        for (var t = 1; t < run.Length; t++)
        {
            for (var y = 0; y < States; y++)
            {
                var emission = _emissions[(run[t] * States) + y];
                var (low, high) = Before[y];
                var (a, b) = (score[low] + _transitions[low, y] + emission, score[high] + _transitions[high, y] + emission);
                (next[y], back[(t * States) + y]) = b >= a ? (b, (byte)high) : (a, (byte)low);
            }
            next.CopyTo(score);
        }
        Follow(back, run.Length, score[3] >= score[1] ? 3 : 1);
        // back[4 t] now holds the state of character t.
        var closed = 0;
        for (var t = 0; t < run.Length; t++)
        {
            if (back[t * States] is not (1 or 3)) continue;
            closed = t + 1;
            ends.Add(offset + closed);
        }
        if (closed < run.Length) ends.Add(offset + run.Length);
    }

    private static void Follow(Span<byte> back, int length, int state)
    {
        for (var t = length - 1; t >= 0; t--)
        {
            var before = t > 0 ? back[(t * States) + state] : (byte)0;
            back[t * States] = (byte)state;
            state = before;
        }
    }

    private static int StateOf(char letter) => Letters.IndexOf(letter, StringComparison.Ordinal) is >= 0 and var state ? state
        : throw new FormatException($"'{letter}' is no state");

    /// <summary>Reads `P={'B': {'\u4e00': -3.65, …}, …}` or the flat `P={'B': -0.26, …}`: entry(outer key, key, value).</summary>
    private static void Read(string path, Action<char, char, double> entry)
    {
        var text = File.ReadAllText(path).AsSpan();
        var at = text.IndexOf("P={");
        if (at < 0) throw new InvalidDataException($"{path}: no table `P={{…}}` in it; is this jieba's finalseg folder?");
        var outer = '\0';
        at += 3;
        try
        {
            while (true)
            {
                var quote = text[at..].IndexOf('\'');
                if (quote < 0) return;
                at += quote + 1;
                var end = at + text[at..].IndexOf('\'');
                var key = text[at] == '\\' ? (char)int.Parse(text[(at + 2)..end], NumberStyles.HexNumber) : text[at];
                at = end + 1 + text[(end + 1)..].IndexOf(':') + 1;
                var value = text[at..].TrimStart();
                if (value[0] == '{')
                {
                    outer = key;
                    continue;
                }
                var length = value.IndexOfAny(',', '}');
                entry(outer, key, double.Parse(value[..length], NumberStyles.Float, CultureInfo.InvariantCulture));
            }
        }
        catch (Exception error) when (error is FormatException or ArgumentOutOfRangeException or IndexOutOfRangeException)
        {
            throw new InvalidDataException($"{path}: character {at}: not a table of ln-probabilities: {error.Message}");
        }
    }
}
