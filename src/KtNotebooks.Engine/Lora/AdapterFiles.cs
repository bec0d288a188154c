using System.Security.Cryptography;
using System.Text;

using KtNotebooks.Files;
using KtNotebooks.Interop;

namespace KtNotebooks.Lora;

/// <summary>
/// The files that an adapter consists of: one .gguf, or a folder's adapter_config.json with adapter_model.safetensors, fused_expert_lora.safetensors or both.
/// </summary>
public sealed record AdapterFiles
{
    private AdapterFiles(string? gguf, string? config, string? plain, string? fused) => (Gguf, Config, Plain, Fused) = (gguf, config, plain, fused);

    /// <summary>llama.cpp's form.</summary>
    public string? Gguf { get; }

    /// <summary>Of a folder.</summary>
    public string? Config { get; }

    /// <summary>PEFT's tensors.</summary>
    public string? Plain { get; }

    /// <summary>KTransformers' routed experts.</summary>
    public string? Fused { get; }

    /// <summary>Finds them.</summary>
    /// <param name="path">adapter_name_or_path: a folder or a .gguf file.</param>
    /// <exception cref="FileNotFoundException">No adapter there.</exception>
    /// <exception cref="InvalidDataException">Another kind of file, or a folder where a file is wanted.</exception>
    public static AdapterFiles Find(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        const string Form = $"an adapter is a folder that holds {PeftConfig.FileName} and {AdapterFolder.FileName}, or a .gguf file";
        var (kind, isGguf) = (FileKinds.Of(path), path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase));
        if (kind == FileKind.None && !isGguf) throw new FileNotFoundException($"{path}: no such folder; {Form}");
        if (kind != FileKind.Folder)
        {
            RegularFile.Require(path, "an adapter");
            if (isGguf) return new AdapterFiles(path, null, null, null);
            var hint = Path.GetFileName(path) is AdapterFolder.FileName or PeftConfig.FileName ? "; name its folder" : "";
            throw new InvalidDataException($"{path}: is a file, but {Form}{hint}");
        }
        const string Holds = $"an adapter folder holds {PeftConfig.FileName} and {AdapterFolder.FileName}";
        string In(string name) => Path.Combine(path, name);
        string If(string name, string hint) => IsNothing(In(name)) ? "" : hint;
        var (config, plain, fused) = (In(PeftConfig.FileName), In(AdapterFolder.FileName), In(FusedExperts.FileName));
        if (IsNothing(config))
        {
            var model = If("config.json", "; this is the folder of a model: it goes to model_name_or_path");
            throw new FileNotFoundException($"{config}: no such file; {Holds}{model}");
        }
        RegularFile.Require(config, "a file of settings");
        if (IsNothing(plain) && IsNothing(fused))
        {
            var pickle = If("adapter_model.bin", "; adapter_model.bin is Python's pickle: save it again with safe_serialization=True");
            throw new FileNotFoundException($"{plain}: no such file; {Holds}{pickle}");
        }
        foreach (var file in (string[])[plain, fused])
            if (!IsNothing(file)) RegularFile.Require(file, "a file of tensors");
        return new AdapterFiles(null, config, IsNothing(plain) ? null : plain, IsNothing(fused) ? null : fused);
    }

    /// <summary>SHA-256 of everything that decides what the adapter does: of one file its own, of several that of their lines `hash  name`.</summary>
    public string Hash()
    {
        var lines = new StringBuilder();
        foreach (var file in (string?[])[Gguf, Config, Plain, Fused])
        {
            if (file is null) continue;
            using var stream = RegularFile.Open(file, "an adapter");
            var hash = Convert.ToHexStringLower(SHA256.HashData(stream));
            if (file == Gguf) return hash;
            lines.Append(hash).Append("  ").Append(Path.GetFileName(file)).Append('\n');
        }
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(lines.ToString())));
    }

    /// <summary>Nothing is there, not even a link that leads nowhere.</summary>
    private static bool IsNothing(string path) => FileKinds.Of(path) == FileKind.None && new FileInfo(path).LinkTarget is null;
}
