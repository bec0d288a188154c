using System.Collections.Concurrent;

using KtNotebooks.Configuration;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tests.Tokenizers;

namespace KtNotebooks.Tests.Placement;

/// <summary>Models of real shape without weights.</summary>
internal static class Shapes
{
    private static readonly ConcurrentDictionary<string, CausalLm> Built = new();

    /// <summary>Shared by all tests: shapes hold no memory and nobody writes to them.</summary>
    public static CausalLm Of(string name) => Built.GetOrAdd(name, static n =>
    {
        using var folder = new Samples.Folder();
        return ModelFolder.Shape(new ConfigFile(folder.Write("config.json", ModelShapes.Config(n).ToJsonString())));
    });

    public static ModelPlacement Resolve(string name, params string[] keys)
    {
        var (model, settings) = (Of(name), Settings.Read(keys));
        var placement = PlacementSettings.Read(settings);
        settings.Finish("kt plan");
        return ModelPlacement.Resolve(model, model.Info.ModelType, placement);
    }
}
