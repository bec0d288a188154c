using KtNotebooks.Interactive.Drawing;

namespace KtNotebooks.Interactive;

/// <summary>
/// Colours that people with the common colour blindnesses tell apart: Okabe and Ito's set with matplotlib's blue (the loss curve's colour everywhere) in front.
/// </summary>
public static class Palette
{
    public static readonly Color Blue = Color.Hex("#1f77b4");
    public static readonly Color Ink = Color.Hex("#24292f");
    public static readonly Color Quiet = Color.Hex("#57606a");
    public static readonly Color Axis = Color.Hex("#8c959f");
    public static readonly Color Grid = Color.Hex("#e7eaee");

    private static readonly Color[] Series =
    [
        Blue, Color.Hex("#e69f00"), Color.Hex("#009e73"), Color.Hex("#d55e00"),
        Color.Hex("#cc79a7"), Color.Hex("#56b4e9"), Color.Hex("#7a6a00"), Color.Hex("#4d4d4d"),
    ];

    /// <summary>Nine samples of viridis: even in brightness, so that it also reads in grey.</summary>
    private static readonly Color[] Viridis =
    [
        Color.Hex("#440154"), Color.Hex("#472d7b"), Color.Hex("#3b528b"), Color.Hex("#2c728e"), Color.Hex("#21918c"),
        Color.Hex("#28ae80"), Color.Hex("#5ec962"), Color.Hex("#addc30"), Color.Hex("#fde725"),
    ];

    /// <summary>The colour of series <paramref name="index"/>; they repeat after eight.</summary>
    public static Color At(int index) => Series[index % Series.Length];

    /// <summary>The colour of a value 0…1 in a heat map.</summary>
    public static Color Heat(double t)
    {
        // 128 shades: more cannot be told apart, and a PNG has room for 256 colours in all.
        var place = Math.Round(Math.Clamp(double.IsNaN(t) ? 0 : t, 0, 1) * 127) / 127 * (Viridis.Length - 1);
        var i = Math.Min((int)place, Viridis.Length - 2);
        return Viridis[i].Towards(Viridis[i + 1], place - i);
    }
}
