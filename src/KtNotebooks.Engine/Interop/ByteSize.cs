using System.Globalization;

namespace KtNotebooks.Interop;

/// <summary>Bytes for people, decimal as makers of memory and disks count: `447 GB`, `23.5 GB`, `560.0 MB`, `12.3 kB`.</summary>
public static class ByteSize
{
    public static string Text(long bytes) => bytes switch
    {
        >= 99_500_000_000 => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e9:N0} GB"),
        >= 100_000_000 => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e9:F1} GB"),
        > 0 and < 100_000 => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e3:F1} kB"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:F1} MB"),
    };
}
