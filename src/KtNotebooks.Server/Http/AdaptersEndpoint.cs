using Microsoft.AspNetCore.Http;

namespace KtNotebooks.Server.Http;

/// <summary>POST /v1/load_lora_adapter and /v1/unload_lora_adapter, in vLLM's form.</summary>
internal sealed class AdaptersEndpoint(ModelEngine engine)
{
    public async Task Load(RequestContext c)
    {
        var f = new JsonFields(await c.ReadAsync());
        var (name, path) = (f.RequiredText("lora_name"), f.RequiredText("lora_path"));
        f.Refuse("load_inplace", "unload the old one first", "false");
        f.Finish();
        await engine.Adapters.LoadAsync(name, path);
        await c.Http.Response.WriteAsync($"Success: LoRA adapter '{name}' added successfully.", c.Cancel);
    }

    public async Task Unload(RequestContext c)
    {
        var f = new JsonFields(await c.ReadAsync());
        var name = f.RequiredText("lora_name");
        f.Finish();
        await engine.Adapters.UnloadAsync(name, c.Cancel);
        await c.Http.Response.WriteAsync($"Success: LoRA adapter '{name}' removed successfully.", c.Cancel);
    }
}
