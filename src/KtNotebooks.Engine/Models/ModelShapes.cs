using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Models;

/// <summary>The config.json of real models, for checkpoints of true shape, benchmarks and plans without a download.</summary>
public static class ModelShapes
{
    private const string Folder = "KtNotebooks.Models.Shapes.";

    public static IReadOnlyList<string> Known { get; } = [.. typeof(ModelShapes).Assembly.GetManifestResourceNames()
        .Where(n => n.StartsWith(Folder, StringComparison.Ordinal)).Select(n => n[Folder.Length..^".json".Length]).Order(StringComparer.Ordinal)];

    /// <summary>The config of a whole shape as a file that was never written.</summary>
    public static ConfigFile File(string shape) => ConfigFile.FromJson(shape, Config(shape).ToJsonString());

    /// <summary>
    /// The config of a shape (a known name, or the path of a config.json) as JSON, cut to fewer layers where asked: of a model that begins with dense layers
    /// one of them and otherwise sparse ones, so that a few
    /// layers stand for all kinds.
    /// </summary>
    /// <param name="layers">num_hidden_layers; of one layer alone that is a sparse one.</param>
    /// <exception cref="ArgumentException">An unknown shape, or more layers than it has.</exception>
    public static JsonObject Config(string shape, int? layers = null)
    {
        var config = Read(shape);
        if (layers is not { } wanted) return config;
        var file = ConfigFile.FromJson(shape, config.ToJsonString());
        var all = file.Int("num_hidden_layers");
        if (wanted < 1 || wanted > all) throw new ArgumentException($"{shape} has {all} layers; --layers must be 1 to {all}, but is {wanted}");
        config["num_hidden_layers"] = wanted;
        if (wanted < all && file.MaybeInt("first_k_dense_replace") is { } dense) config["first_k_dense_replace"] = Math.Min(dense, Math.Min(wanted - 1, 1));
        return config;
    }

    private static JsonObject Read(string shape)
    {
        if (shape.EndsWith(".json", StringComparison.Ordinal)) return JsonSource.ReadNodes(shape, "a model's config.json");
        using var stream = typeof(ModelShapes).Assembly.GetManifestResourceStream($"{Folder}{shape}.json")
            ?? throw new ArgumentException($"shape '{shape}' is not known; known are {string.Join(", ", Known)}, or the path of a config.json");
        return JsonNode.Parse(stream)!.AsObject();
    }
}
