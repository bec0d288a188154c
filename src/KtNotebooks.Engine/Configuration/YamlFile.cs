using KtNotebooks.Files;

using YamlDotNet.Core;
using YamlDotNet.Core.Events;
using YamlDotNet.RepresentationModel;

namespace KtNotebooks.Configuration;

/// <summary>
/// One YAML document, as nodes that know their lines. What a file may hold is bounded before a tree is made of it: the tree's maker calls itself for every
/// level.
/// </summary>
public static class YamlFile
{
    /// <summary>The most bytes, levels and nodes taken; the largest known rules file has 20 KB, 6 levels and 700 nodes.</summary>
    public const int MostBytes = 16 << 20, DeepestLevel = 64, MostNodes = 200_000;

    /// <summary>The root of the first document; null for an empty file.</summary>
    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">Not YAML; file and line are named.</exception>
    public static YamlNode? Load(string path) => Parse(RegularFile.ReadAllText(path, "a YAML file", MostBytes), path);

    /// <summary>The same of a text that is there already.</summary>
    /// <param name="text">The text.</param>
    /// <param name="name">What errors call it.</param>
    public static YamlNode? Parse(string text, string name)
    {
        try
        {
            Bound(text, name);
            var yaml = new YamlStream();
            yaml.Load(new StringReader(text));
            if (yaml.Documents.Count > 1)
                throw new InvalidDataException($"{name}:{yaml.Documents[1].RootNode.Start.Line}: a second YAML document begins here (after ---); a file "
                    + "holds one: join them, or give each a file of its own");
            return yaml.Documents.Count == 0 ? null : yaml.Documents[0].RootNode;
        }
        catch (YamlException error)
        {
            throw new InvalidDataException(Tab(text, error.Start.Line, error.End.Line + 1) is { } line
                ? $"{name}:{line}: not valid YAML: a tab stands where the line is indented; YAML takes blanks alone"
                : $"{name}:{error.Start.Line}: not valid YAML: {Reason(error)}");
        }
        // YamlDotNet lets some faults of its own pass, without a place: a tag that is no address, a scanner that lost its way.
        catch (Exception error) when (error is ArgumentException or InvalidOperationException or IndexOutOfRangeException or FormatException
            or OverflowException)
        {
            throw new InvalidDataException($"{name}: not valid YAML: a bracket, a quote or a tag (!) that does not end");
        }
    }

    /// <summary>The entries of a mapping; those of `&lt;&lt;: *base` come after its own and do not replace them, as YAML's merge keys do.</summary>
    public static IEnumerable<(YamlNode Key, YamlNode Value)> Entries(YamlMappingNode map, string name)
    {
        ArgumentNullException.ThrowIfNull(map);
        HashSet<YamlNode> seen = [];
        return Walk(map, 0);

        IEnumerable<(YamlNode, YamlNode)> Walk(YamlMappingNode from, int depth)
        {
            if (depth > DeepestLevel) throw new InvalidDataException($"{name}:{from.Start.Line}: merge keys (<<) go round in a circle");
            foreach (var (key, value) in from.Children)
                if (key is not YamlScalarNode { Value: "<<" } && seen.Add(key)) yield return (key, value);
            foreach (var (key, value) in from.Children)
            {
                if (key is not YamlScalarNode { Value: "<<" }) continue;
                foreach (var source in value is YamlSequenceNode list ? list.Children : [value])
                {
                    if (source is not YamlMappingNode merged)
                        throw new InvalidDataException($"{name}:{key.Start.Line}: << takes a mapping (`<<: *name`), or a list of them");
                    foreach (var entry in Walk(merged, depth + 1)) yield return entry;
                }
            }
        }
    }

    private static void Bound(string text, string name)
    {
        var parser = new Parser(new StringReader(text));
        var (depth, nodes) = (0, 0);
        while (parser.MoveNext())
        {
            if (parser.Current is MappingStart or SequenceStart) depth++;
            if (parser.Current is MappingEnd or SequenceEnd) depth--;
            if (parser.Current is Scalar or MappingStart or SequenceStart or AnchorAlias) nodes++;
            if (depth > DeepestLevel) throw new InvalidDataException($"{name}:{parser.Current!.Start.Line}: nested more than {DeepestLevel} deep");
            if (nodes > MostNodes) throw new InvalidDataException($"{name}:{parser.Current!.Start.Line}: more than {MostNodes:N0} values");
        }
    }

    /// <summary>The first of some lines that is indented by a tab; null: none is. Editors put them in, nobody sees them.</summary>
    private static long? Tab(string text, long first, long last)
    {
        var number = 0L;
        foreach (var line in text.AsSpan().EnumerateLines())
            if (++number >= first && number <= last && line.TrimStart(' ') is ['\t', ..] && !line.IsWhiteSpace()) return number;
        return null;
    }

    /// <summary>YamlDotNet's words without the place that stands before them.</summary>
    private static string Reason(YamlException error)
    {
        var text = error.Message.ReplaceLineEndings(" ");
        var at = text.StartsWith('(') ? text.IndexOf("): ", StringComparison.Ordinal) : -1;
        return at < 0 ? text : text[(at + 3)..];
    }
}
