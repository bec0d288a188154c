using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace KtNotebooks.Configuration;

/// <summary>One YAML document from a file, as nodes that know their lines.</summary>
public static class YamlFile
{
    /// <summary>The root of the first document; null for an empty file.</summary>
    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">Not YAML; file and line are named.</exception>
    public static YamlNode? Load(string path)
    {
        if (!File.Exists(path)) throw new FileNotFoundException($"{path}: no such file", path);
        var yaml = new YamlStream();
        try
        {
            using var reader = new StreamReader(path);
            yaml.Load(reader);
        }
        catch (YamlException error)
        {
            throw new InvalidDataException($"{path}:{error.Start.Line}: not valid YAML: {error.Message}");
        }
        return yaml.Documents.Count == 0 ? null : yaml.Documents[0].RootNode;
    }
}
