using System.Reflection;

using KtNotebooks.Distributed;

namespace KtNotebooks.Training;

/// <summary>Before the first step: ranks that would not learn the same are told so, with the first thing that differs and both values.</summary>
public static class SameRun
{
    /// <summary>Of this program: ranks of two builds may compute different bits, or wait for each other at different places.</summary>
    public static string Code => typeof(SameRun).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion is { } version
        ? $"{version} ({typeof(SameRun).Module.ModuleVersionId.ToString("N")[..8]})" : typeof(SameRun).Module.ModuleVersionId.ToString("N");

    /// <param name="ranks">All of them call this.</param>
    /// <param name="facts">Name and value of what must be the same everywhere; names may be missing on some.</param>
    /// <exception cref="ArgumentException">Something differs; the same words on every rank.</exception>
    public static void Require(ICollective ranks, IEnumerable<(string Name, string Value)> facts)
    {
        ArgumentNullException.ThrowIfNull(ranks);
        ArgumentNullException.ThrowIfNull(facts);
        if (ranks.World == 1) return;
        var all = ranks.AllGather(string.Join('\n', facts.Select(f => $"{OneLine(f.Name)}\t{OneLine(f.Value)}"))).Select(Read).ToArray();
        foreach (var name in all.SelectMany(f => f.Keys).Distinct())
        {
            string Of(int rank) => all[rank].GetValueOrDefault(name, "not set");
            for (var r = 1; r < all.Length; r++)
                if (Of(r) != Of(0))
                    throw new ArgumentException($"the ranks do not run the same: {name} is {Of(0)} on {ranks.Name(0)}, but {Of(r)} on {ranks.Name(r)}; "
                        + "start all with one config, the same files and the same build");
        }
    }

    private static string OneLine(string text) => text.ReplaceLineEndings(" ").Replace('\t', ' ');

    /// <summary>In the order in which they were given.</summary>
    private static OrderedDictionary<string, string> Read(string text)
    {
        var facts = new OrderedDictionary<string, string>();
        foreach (var line in text.Split('\n', StringSplitOptions.RemoveEmptyEntries))
            if (line.IndexOf('\t', StringComparison.Ordinal) is >= 0 and var at) facts[line[..at]] = line[(at + 1)..];
        return facts;
    }
}
