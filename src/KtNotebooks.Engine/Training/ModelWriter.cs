using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>A whole model as one safetensors file in BF16 (norms and routers too, as DeepSeek ships them), beside a copy of its config.json.</summary>
public static class ModelWriter
{
    public static void Save(CausalLm model, string configPath, string folder, DType type = DType.BF16)
    {
        ArgumentNullException.ThrowIfNull(model);
        List<(string Name, Tensor Tensor)> tensors = [];
        try
        {
            foreach (var (name, tensor) in model.AllWeights) tensors.Add((name, tensor.To(type)));
            SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors);
        }
        finally
        {
            foreach (var (_, tensor) in tensors) tensor.Dispose();
        }
        var target = Path.Combine(folder, "config.json");
        if (Path.GetFullPath(configPath) != Path.GetFullPath(target)) AtomicFile.WriteText(target, File.ReadAllText(configPath));
    }
}
