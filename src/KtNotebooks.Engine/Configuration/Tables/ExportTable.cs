using static KtNotebooks.Configuration.Key;

namespace KtNotebooks.Configuration.Tables;

/// <summary>LLaMA-Factory's export arguments.</summary>
internal static class ExportTable
{
    private const string Quantization = "goes with export_quantization_bit";

    public static Key[] Keys { get; } =
    [
        Acts("export_dir", "str", null, KeyUse.Export, "the folder to write, which must not be there"),
        Acts("export_size", "float", "5", KeyUse.Export, "GB of a shard"),
        Acts("export_dtype", "auto | bfloat16", "auto", KeyUse.Export, "auto: each tensor keeps its type; bfloat16: low-bit weights are decoded (our own key)"),
        NoEffect("export_device", "str", "cpu", "shards are merged one after another; the disk is the limit"),
        Refused("export_quantization_bit", "int", null, "leave it out: weights keep the type of the base, or become BF16 with export_dtype=bfloat16"),
        NoEffect("export_quantization_dataset", "str", null, Quantization),
        NoEffect("export_quantization_nsamples", "int", "128", Quantization),
        NoEffect("export_quantization_maxlen", "int", "1024", Quantization),
        Refused("export_legacy_format", "bool", "false", "safetensors are written"),
        Refused("export_hub_model_id", "str", null, "not offered: copy export_dir to the hub with `hf upload`"),
    ];
}
