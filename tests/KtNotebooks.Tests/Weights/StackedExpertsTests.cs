using KtNotebooks.Formats;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Weights;

/// <summary>gpt-oss's experts, one tensor for all of them: plain and in MXFP4, taken as they are or in another format.</summary>
public sealed class StackedExpertsTests : IDisposable
{
    private const int E = 3;
    private const int D = 64;
    private const int I = 32;
    private static readonly ExpertNames Names = ExpertNames.Interleaved("model.layers.0.mlp.experts");
    private readonly Samples.Folder _folder = new();

    /// <summary>Gate, up and down [E][N, K] as they were written.</summary>
    private readonly float[][][] _values = [new float[E][], new float[E][], new float[E][]];

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(false, "f32")]
    [InlineData(false, "int8")]
    [InlineData(false, "mxfp4")]
    [InlineData(true, null)]
    [InlineData(true, "bf16")]
    [InlineData(true, "int8")]
    public void Every_expert_gets_its_own_rows(bool packed, string? format)
    {
        Save(packed);
        using var checkpoint = new Checkpoint(_folder.Path) { FormatOf = _ => format is null ? null : StorageFormat.Parse(format) };
        for (var p = 0; p < 3; p++)
        {
            var (n, k) = p == 2 ? (D, I) : (I, D);
            var experts = checkpoint.TakeExperts(Names.All[p], DType.F32, E, n, k);
            Assert.Equal((format is null ? StorageFormat.Mxfp4 : format == "bf16" ? StorageFormat.F32 : StorageFormat.Parse(format), n, k),
                (experts.Format, experts.N, experts.K));
            for (var e = 0; e < E; e++)
            {
                var expected = _values[p][e];
                if (experts.Format.IsLowBit && !(packed && format is null))
                {
                    using var plain = Tensor.From(expected, n, k);
                    var (data, scales) = experts.Format.Quantize(plain);
                    using (data)
                    using (scales)
                    using (var values = experts.Format.Dequantize(data, scales, n, k, DType.F32)) expected = values.ToFloats();
                }
                Assert.Equal(expected, experts.ToFloats(e, DType.F32));
            }
            experts.DisposeEach();
        }
    }

    [Fact]
    public void A_tensor_of_another_shape_is_named()
    {
        Save(packed: false);
        using var checkpoint = new Checkpoint(_folder.Path);
        var error = Assert.Throws<InvalidDataException>(() => checkpoint.TakeExperts(Names.Gate, DType.F32, E, I + 1, D));
        Assert.EndsWith("tensor 'model.layers.0.mlp.experts.gate_up_proj' must be F32 or BF16[3, 64, 66] by config.json, but is F32[3, 64, 64]", error.Message,
            StringComparison.Ordinal);
    }

    private void Save(bool packed)
    {
        List<(string, Tensor)> tensors = [];
        foreach (var (name, every, rows, k) in ((string, int, int, int)[])[(Names.Gate.Stacked!.Name, 2, 2 * I, D), (Names.Down.Stacked!.Name, 1, D, I)])
        {
            var all = new float[E * rows * k];
            var random = new NormalRandom(7, name);
            random.Fill(all, 1);
            if (packed)
            {
                using var floats = Tensor.From(all, E * rows, k);
                var (data, scales) = StorageFormat.Mxfp4.Quantize(floats);
                using (var values = StorageFormat.Mxfp4.Dequantize(data, scales, E * rows, k, DType.F32)) all = values.ToFloats();
                tensors.Add((name + "_blocks", data.View(E, rows, k / 32, 16)));
                tensors.Add((name + "_scales", scales.View(E, rows, k / 32)));
                data.Dispose();
                scales.Dispose();
            }
            else
            {
                var turned = new float[all.Length];
                for (var e = 0; e < E; e++)
                    for (var r = 0; r < rows; r++)
                        for (var c = 0; c < k; c++) turned[(((e * k) + c) * rows) + r] = all[(((e * rows) + r) * k) + c];
                tensors.Add((name, Tensor.From(turned, E, k, rows)));
            }
            for (var e = 0; e < E; e++)
                for (var first = 0; first < every; first++)
                    _values[every == 1 ? 2 : first][e] = [.. Enumerable.Range(0, rows / every)
                        .SelectMany(i => all.AsSpan(((e * rows) + (i * every) + first) * k, k).ToArray())];
        }
        SafetensorsWriter.Write(Path.Combine(_folder.Path, "model.safetensors"), tensors);
        foreach (var (_, tensor) in tensors) tensor.Dispose();
    }
}
