using FsCheck;
using FsCheck.Fluent;

using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

public class TicksTests
{
    [Fact]
    public void Linear_ticks_cover_any_range_with_few_nice_steps() =>
        Prop.ForAll<double, double>((a, b) =>
        {
            if (Math.Abs(a) > 1e200 || Math.Abs(b) > 1e200 || Math.Abs(a) is > 0 and < 1e-200 || Math.Abs(b) is > 0 and < 1e-200) return true;
            var ticks = Ticks.Linear(a, b);
            var finite = new[] { a, b }.Where(double.IsFinite).DefaultIfEmpty(0).ToArray();
            double low = finite.Min(), high = finite.Max(), slack = 1e-6 * (ticks[^1] - ticks[0]);
            var step = ticks[1] - ticks[0];
            var mantissa = step / Math.Pow(10, Math.Floor(Math.Log10(step) + 1e-6));
            return ticks.All(double.IsFinite) && ticks.Length is >= 2 and <= 9
                && ticks[0] <= low + slack && ticks[^1] >= high - slack
                && new[] { 1, 2, 5 }.Any(nice => Math.Abs(mantissa - nice) < 1e-3);
        }).QuickCheckThrowOnFailure();

    [Theory]
    [InlineData(0, 1, new[] { 0, 0.2, 0.4, 0.6, 0.8, 1 })]
    [InlineData(1.2, 4.1, new[] { 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5 })]
    [InlineData(-0.3, 0.3, new[] { -0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3 })]
    public void Linear_ticks_by_hand(double low, double high, double[] expected) => Assert.Equal(expected, Ticks.Linear(low, high));

    [Theory]
    [InlineData(3, 3)]
    [InlineData(0, 0)]
    [InlineData(double.NaN, double.NaN)]
    [InlineData(double.NegativeInfinity, double.PositiveInfinity)]
    [InlineData(-1e-5, -1e-5)]
    public void A_constant_or_missing_range_is_widened(double low, double high)
    {
        var ticks = Ticks.Linear(low, high);
        Assert.True(ticks.Length >= 2 && ticks.All(double.IsFinite) && ticks[0] < ticks[^1]);
        if (double.IsFinite(low)) Assert.True(ticks[0] < low && ticks[^1] > high);
    }

    [Fact]
    public void Log_ticks_cover_and_rise() =>
        Prop.ForAll<double, double>((a, b) =>
        {
            if (Math.Abs(a) is > 0 and (< 1e-200 or > 1e200) || Math.Abs(b) is > 0 and (< 1e-200 or > 1e200)) return true;
            double low = Math.Min(a, b), high = Math.Max(a, b);
            var ticks = Ticks.Log(low, high);
            return ticks.Length >= 2 && ticks.Zip(ticks.Skip(1)).All(p => p.First < p.Second) && ticks.All(t => t > 0 && double.IsFinite(t))
                && (!(low > 0) || !double.IsFinite(high) || (ticks[0] <= low * 1.0001 && ticks[^1] >= high * 0.9999));
        }).QuickCheckThrowOnFailure();

    [Fact]
    public void Labels_tell_marks_apart_and_are_short()
    {
        Assert.Equal(["0.0", "0.5", "1.0"], Ticks.Labels([0, 0.5, 1]));
        Assert.Equal(["0", "10k", "20k"], Ticks.Labels([0, 10000, 20000]));
        Assert.Equal(["0", "2e-5", "4e-5"], Ticks.Labels([0, 2e-5, 4e-5]));
        Assert.Equal(["-1250k", "1250k"], Ticks.Labels([-1.25e6, 1.25e6]));
    }

    [Theory]
    [InlineData(0, "0")]
    [InlineData(1.23456, "1.235")]
    [InlineData(0.0001, "1e-4")]
    [InlineData(12345.678, "12,345.7")]
    [InlineData(1e9, "1e9")]
    [InlineData(double.NaN, "NaN")]
    public void Numbers_for_people(double value, string expected) => Assert.Equal(expected, Ticks.Format(value));
}
