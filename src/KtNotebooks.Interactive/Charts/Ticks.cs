using System.Globalization;

namespace KtNotebooks.Interactive;

/// <summary>Places for axis marks that people read easily: multiples of 1, 2 or 5 times a power of ten.</summary>
public static class Ticks
{
    /// <summary>
    /// Nice numbers from the last one at or below <paramref name="low"/> to the first at or above <paramref name="high"/>, in steps that give at most
    /// <paramref name="most"/> + 1 of them (two more at unlucky ends). Equal, reversed or non-finite ends are widened to a usable range first.
    /// </summary>
    public static double[] Linear(double low, double high, int most = 6)
    {
        (low, high) = Usable(low, high);
        var step = Step(high - low, Math.Max(1, most));
        double first = Math.Floor(low / step + 1e-9), last = Math.Ceiling(high / step - 1e-9);
        var ticks = new double[(int)(last - first) + 1];
        for (var i = 0; i < ticks.Length; i++) ticks[i] = Clean((first + i) * step);
        return ticks;
    }

    /// <summary>
    /// Powers of ten that cover the range; 1, 2, 5 in between when there are few. Both ends must be positive; otherwise a usable positive range is taken.
    /// </summary>
    public static double[] Log(double low, double high)
    {
        if (!double.IsFinite(low) || low <= 0) low = double.IsFinite(high) && high > 0 ? high / 10 : 0.1;
        if (!double.IsFinite(high) || high < low) high = low;
        int first = (int)Math.Floor(Math.Log10(low) + 1e-9), last = (int)Math.Ceiling(Math.Log10(high) - 1e-9);
        if (first == last) last++;
        var every = Math.Max(1, (last - first + 7) / 8);
        var ticks = new List<double>();
        for (var e = first; e < last + every; e += every)
        {
            ticks.Add(Clean(Math.Pow(10, e)));
            if (last - first <= 2 && e < last) ticks.AddRange([Clean(2 * Math.Pow(10, e)), Clean(5 * Math.Pow(10, e))]);
        }
        // Inner marks outside the range would only stretch the axis.
        while (ticks.Count > 2 && ticks[1] <= low) ticks.RemoveAt(0);
        while (ticks.Count > 2 && ticks[^2] >= high) ticks.RemoveAt(ticks.Count - 1);
        return [.. ticks];
    }

    /// <summary>A finite range with positive length around whatever came in.</summary>
    internal static (double Low, double High) Usable(double low, double high)
    {
        if (!double.IsFinite(low)) low = double.IsFinite(high) ? high : 0;
        if (!double.IsFinite(high)) high = low;
        if (low > high) (low, high) = (high, low);
        // Below a millionth of the magnitude the marks could not be told apart.
        if (high - low > Math.Max(Math.Abs(low), Math.Abs(high)) * 1e-6 && high - low > 1e-300) return (low, high);
        var pad = low == 0 && high == 0 ? 1 : Math.Max(Math.Abs(low), Math.Abs(high)) * 0.1;
        return (low - pad, high + pad);
    }

    private static double Step(double range, int most)
    {
        var rough = range / most;
        var power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        foreach (var nice in (ReadOnlySpan<double>)[1, 2, 5])
            if (nice * power >= rough * (1 - 1e-9)) return nice * power;
        return 10 * power;
    }

    /// <summary>Fifteen digits: 0.30000000000000004 is meant as 0.3, and −0 as 0.</summary>
    private static double Clean(double value) => double.Parse(value.ToString("G15", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture) + 0.0;

    /// <summary>Labels with the same number of decimals, as many as needed to tell the marks apart; 12k, 3M above ten thousand; 2e-5 when tiny.</summary>
    public static string[] Labels(IReadOnlyList<double> ticks)
    {
        ArgumentNullException.ThrowIfNull(ticks);
        var largest = ticks.Count == 0 ? 0 : ticks.Max(Math.Abs);
        var (unit, suffix) = largest switch
        {
            >= 1e13 or > 0 and < 1e-3 => (0.0, ""),
            >= 1e10 => (1e9, "G"),
            >= 1e7 => (1e6, "M"),
            >= 1e4 => (1e3, "k"),
            _ => (1.0, ""),
        };
        if (unit == 0) return [.. ticks.Select(Exponent)];
        var decimals = 0;
        while (decimals < 9 && ticks.Any(t => Loses(t / unit, decimals, largest / unit))) decimals++;
        return [.. ticks.Select(t => t == 0 ? 0.ToString("F" + decimals, CultureInfo.InvariantCulture)
            : (t / unit).ToString("F" + decimals, CultureInfo.InvariantCulture) + suffix)];
    }

    private static bool Loses(double value, int decimals, double largest) =>
        Math.Abs(Math.Round(value, decimals) - value) > 1e-6 * Math.Max(largest * 1e-3, Math.Abs(value));

    /// <summary>One number for people: four significant digits, an exponent where the number is tiny or huge.</summary>
    public static string Format(double value) =>
        !double.IsFinite(value) ? value.ToString(CultureInfo.InvariantCulture)
        : value != 0 && Math.Abs(value) is < 1e-3 or >= 1e7 ? Exponent(value)
        : Math.Abs(value) >= 1e3 ? value.ToString("#,0.#", CultureInfo.InvariantCulture)
        : value.ToString("G4", CultureInfo.InvariantCulture);

    private static string Exponent(double value) => value == 0 ? "0" : value.ToString("0.###e-0", CultureInfo.InvariantCulture);
}
