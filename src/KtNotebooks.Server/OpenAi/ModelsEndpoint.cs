using KtNotebooks.Server.Http;

using Microsoft.AspNetCore.Routing;

namespace KtNotebooks.Server.OpenAi;

/// <summary>GET /v1/models and /v1/models/NAME.</summary>
internal sealed class ModelsEndpoint(ModelEngine engine)
{
    public Task List(RequestContext c) => c.WriteAsync(new ModelList("list", [.. engine.Models.Select(Of)]), ChatJson.Wire.ModelList);

    public Task One(RequestContext c) =>
        c.WriteAsync(Of(engine.Find(c.Http.GetRouteValue("model")?.ToString() ?? "")), ChatJson.Wire.ModelCard);

    private ModelCard Of(ServedModel model) => new(model.Name, "model", model.Created.ToUnixTimeSeconds(), "ktnotebooks",
        model.Adapter == Nn.Pass.BaseModel ? engine.Settings.BaseName : model.Adapter,
        model.Adapter == Nn.Pass.BaseModel ? null : engine.Settings.BaseName, engine.Model.Info.MaxPositions);
}
