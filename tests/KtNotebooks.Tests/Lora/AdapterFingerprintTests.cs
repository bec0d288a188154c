using KtNotebooks.Formats;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tests.Weights;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>An adapter belongs to a model, not to the format in which that was stored while it was trained.</summary>
public sealed class AdapterFingerprintTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_model_has_one_fingerprint_and_one_number_of_parameters_in_every_format()
    {
        var plain = Tiny.Save(In("plain"), change: LowBitFolder.Wide);
        var (fingerprint, parameters) = Of(plain, new LoadSettings());
        using (var shape = ModelFolder.Shape(new ConfigFile(Path.Combine(plain, "config.json"))))
            Assert.Equal(shape.AllWeights.Sum(p => p.Tensor.Count), parameters);
        foreach (var format in new[]
        {
            StorageFormat.Fp8, StorageFormat.Int8, StorageFormat.Int4
        }) Assert.Equal((fingerprint, parameters), Of(plain, new LoadSettings(format)));
        foreach (var format in new[]
        {
            StorageFormat.Fp8, StorageFormat.Int4
        }) Assert.Equal((fingerprint, parameters), Of(LowBitFolder.Save(In($"{format}"), format, wide: true), new LoadSettings()));
    }

    [Fact]
    public void An_adapter_trained_on_packed_4_bits_loads_on_the_BF16_base()
    {
        var adapter = In("adapter");
        Dictionary<string, float[]> trained;
        using (var model = ModelFolder.Load(LowBitFolder.Save(In("int4"), StorageFormat.Int4)))
        {
            var settings = new LoraSettings(Rank: 3, Experts: true);
            LoraAdapter.Attach(model, settings, 1);
            using var optimizer = new AdamW(model.AllTrainable, new AdamWSettings());
            for (var step = 0; step < 2; step++)
            {
                new LayerMajorStep(model).Run(Tiny.Batch(step, 5, 11, 30), cancel: TestContext.Current.CancellationToken);
                optimizer.Step(1e-2, 1);
                Tiny.DropGradients(model);
            }
            AdapterFolder.Save(model, settings, adapter, "int4");
            trained = model.AllTrainable.ToDictionary(p => p.Name, p => p.Tensor.ToFloats());
        }
        using var plain = ModelFolder.Load(Tiny.Save(In("plain"), change: LowBitFolder.Wide));
        AdapterFolder.Load(plain, adapter);
        Assert.Equal(trained.Keys.Order(), plain.AllTrainable.Select(p => p.Name).Order());
        foreach (var (name, tensor) in plain.AllTrainable) Assert.Equal(trained[name], tensor.ToFloats());
        Assert.Contains(trained, t => t.Key.Contains("experts", StringComparison.Ordinal) && t.Key.EndsWith("lora_B", StringComparison.Ordinal)
            && t.Value.Any(v => v != 0));
    }

    private string In(string name) => Path.Combine(_folder.Path, name);

    private static (string Fingerprint, long Parameters) Of(string folder, LoadSettings load)
    {
        using var model = ModelFolder.Load(folder, DType.BF16, load: load);
        return (AdapterFolder.Fingerprint(model), model.AllWeights.Sum(p => p.Count));
    }
}
