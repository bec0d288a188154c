using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Lora;

/// <summary>One half of a low-rank pair as some file stores it.</summary>
/// <param name="Source">Its name there.</param>
/// <param name="Type">How it is stored, for messages.</param>
/// <param name="Shape">A [r, in] or B [out, r].</param>
/// <param name="Read">The values as F32.</param>
public sealed record AdapterTensor(string Source, string Type, long[] Shape, Func<float[]> Read)
{
    public override string ToString() => $"{Type}[{string.Join(", ", Shape)}]";
}

/// <summary>
/// An adapter on disk, of any form, under PEFT's names: PEFT's folder, KTransformers' folder (routed experts in fused_expert_lora.safetensors), or llama.cpp's GGUF file. Nothing is read before it is asked for.
/// </summary>
public sealed class AdapterSource(string path, LoraSettings settings, IReadOnlyDictionary<string, AdapterTensor> tensors, IReadOnlyList<IDisposable> files, string? fingerprint = null, string? baseName = null) : IDisposable
{
    /// <summary>The file that messages name.</summary>
    public string Path => path;

    public LoraSettings Settings => settings;

    /// <summary>By PEFT's names, `base_model.model.{module path}.lora_A.weight`.</summary>
    public IReadOnlyDictionary<string, AdapterTensor> Tensors => tensors;

    /// <summary>Of the base that it was trained on, where the file says it.</summary>
    public string? Fingerprint => fingerprint;

    public string? BaseName => baseName;

    /// <exception cref="FileNotFoundException">No adapter there.</exception>
    /// <exception cref="InvalidDataException">A damaged one.</exception>
    public static AdapterSource Open(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase)) return GgufAdapter.Open(path);
        var (settings, baseName) = PeftConfig.Read(path);
        var plain = System.IO.Path.Combine(path, AdapterFolder.FileName);
        var fused = System.IO.Path.Combine(path, FusedExperts.FileName);
        var tensors = new Dictionary<string, AdapterTensor>();
        List<IDisposable> files = [];
        try
        {
            string? fingerprint = null;
            if (File.Exists(plain) || !File.Exists(fused))
            {
                var file = new SafetensorsFile(plain);
                files.Add(file);
                fingerprint = file.Metadata.GetValueOrDefault(AdapterFolder.FingerprintKey);
                foreach (var (name, tensor) in Of(file)) tensors.Add(name, tensor);
            }
            if (File.Exists(fused))
            {
                var file = new SafetensorsFile(fused);
                files.Add(file);
                foreach (var (name, tensor) in FusedExperts.Read(file))
                    if (!tensors.TryAdd(name, tensor)) throw new InvalidDataException($"{fused}: '{tensor.Source}' is '{name}', which {AdapterFolder.FileName} has as well");
            }
            return new AdapterSource(File.Exists(plain) ? plain : fused, settings, tensors, files, fingerprint, baseName);
        }
        catch
        {
            foreach (var file in files) file.Dispose();
            throw;
        }
    }

    /// <summary>The tensors of a safetensors file under their own names.</summary>
    public static Dictionary<string, AdapterTensor> Of(SafetensorsFile file)
    {
        ArgumentNullException.ThrowIfNull(file);
        return file.Entries.Values.ToDictionary(e => e.Name, e => new AdapterTensor(e.Name, e.Type.ToString(), e.Shape, () =>
        {
            using var stored = file.Get(e.Name);
            return Floats(stored);
        }));
    }

    /// <summary>
    /// Writes it as a folder in PEFT's form (F32), or with routed experts in KTransformers' form (BF16). Needs no model.
    /// </summary>
    /// <param name="folder">Made if it is not there.</param>
    /// <param name="fused">Routed experts in KTransformers' form.</param>
    /// <param name="log">Hears under which name every tensor goes on.</param>
    public void Save(string folder, bool fused, Action<string>? log = null)
    {
        List<(string Name, Tensor Tensor)> plain = [];
        try
        {
            foreach (var (name, tensor) in tensors.OrderBy(t => t.Key, StringComparer.Ordinal))
            {
                if (fused && FusedExperts.IsExpert(name)) continue;
                plain.Add((name, Tensor.From(tensor.Read(), tensor.Shape)));
                log?.Invoke($"Loaded adapter weight: {tensor.Source} -> {name}");
            }
            var metadata = fingerprint is null ? null : new Dictionary<string, string> { [AdapterFolder.FingerprintKey] = fingerprint };
            if (fused) FusedExperts.Write(System.IO.Path.Combine(folder, FusedExperts.FileName), tensors, log);
            if (plain.Count > 0) SafetensorsWriter.Write(System.IO.Path.Combine(folder, AdapterFolder.FileName), plain, metadata);
        }
        finally
        {
            foreach (var (_, tensor) in plain) tensor.Dispose();
        }
        PeftConfig.Write(folder, settings, tensors.Keys, baseName);
    }

    public void Dispose()
    {
        foreach (var file in files) file.Dispose();
    }

    internal static float[] Floats(Tensor stored) => stored.Type == DType.F16 ? Array.ConvertAll(stored.Span<Half>().ToArray(), h => (float)h) : stored.ToFloats();
}
