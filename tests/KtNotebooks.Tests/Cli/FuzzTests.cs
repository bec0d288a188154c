using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Jupyter.Notebooks;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>
/// Files that people have, damaged in small ways: every outcome is success, or an error of ours that ends in one line (exit code 2). The seed is fixed;
/// KT_FUZZ=N tries N damages of each file in place of 600.
/// </summary>
public class FuzzTests(Workplace place) : IClassFixture<Workplace>
{
    private static readonly int Tries = int.TryParse(Environment.GetEnvironmentVariable("KT_FUZZ"), out var n) ? n : 600;

    /// <summary>What the program turns into one line and exit code 2; anything else is a fault of ours.</summary>
    private static bool IsOurs(Exception error) =>
        error is ArgumentException or IOException or InvalidDataException or NotSupportedException or InsufficientMemoryException
            && !Sentences.Any(s => error.Message.Contains(s, StringComparison.Ordinal));

    /// <summary>.NET's own words, which say nothing to a person.</summary>
    private static readonly string[] Sentences =
    [
        "Index was out", "An item with the same key", "The given key", "Nullable object", "Object reference", "Value cannot be null", "Specified argument",
        "Sequence contains", "Unable to cast", "Arithmetic operation",
        "The input string", "was not in a correct format", "(Parameter", "Operation is not valid", "The requested operation requires an element",
        "Attempted to divide",
    ];

    public static TheoryData<string> Kinds =>
        ["config.yaml", "rules.yaml", "rows.json", "rows.jsonl", "rows.csv", "dataset_info.json", "config.json", "model.safetensors", "tokenizer.json",
            "adapter_config.json", "adapter_model.safetensors", "adapter.gguf", "notebook.ipynb"];

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Damaged_files_end_in_a_line(string kind)
    {
        var (bytes, read) = Prepare(kind);
        var random = new StableRandom((ulong)kind.Length * 7919 + kind[0]);
        read(bytes); // whole, it is read
        for (var i = 0; i < Tries; i++)
        {
            var damaged = Damage(bytes, random);
            try
            {
                read(damaged);
            }
            catch (Exception error) when (IsOurs(error))
            {
                // One line and exit code 2: Failures.Refuse joins its lines and cuts it.
            }
            catch (Exception error)
            {
                var kept = Path.Combine(Checkout.Root, "artifacts", $"fuzz-{i}-{kind}");
                File.WriteAllBytes(kept, damaged);
                Assert.Fail($"{kind}, damage {i}, kept as {kept}: {error}");
            }
        }
    }

    private (byte[] Bytes, Action<byte[]> Read) Prepare(string kind)
    {
        var folder = Directory.CreateDirectory(Path.Combine(place.Root, "fuzz-" + kind)).FullName;
        byte[] Text(string text) => System.Text.Encoding.UTF8.GetBytes(text);
        string Put(string name, byte[] bytes)
        {
            File.WriteAllBytes(Path.Combine(folder, name), bytes);
            return Path.Combine(folder, name);
        }
        byte[] Rows(string name) => File.ReadAllBytes(Path.Combine(place.Root, "data/good.json")) is var json
            && name.EndsWith(".json", StringComparison.Ordinal) ? json
            : name.EndsWith(".csv", StringComparison.Ordinal) ? Text("instruction,output\nHello,\"Good, day\"\n\"By\"\"e\",See you\n")
            : Text("{\"instruction\": \"Hello\", \"output\": \"Good day\"}\n{\"instruction\": \"Bye\", \"output\": \"See you\"}\n");
        void Copy(string from)
        {
            foreach (var file in Directory.GetFiles(from)) File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), overwrite: true);
        }
        switch (kind)
        {
            case "config.yaml":
                return (Text("model_name_or_path: m\ndataset: [good, bad]\noutput_dir: out\nlearning_rate: 1.0e-4\nlora_rank: 8\nkt_config:\n  kt_backend: "
                    + "BF16\n  kt_num_threads: 4\nbf16: true\nwarmup_ratio: 0.1\nmax_steps: 3\n"),
                    bytes =>
                    {
                        var c = Settings.Read([Put(kind, bytes)]);
                        _ = FineTuneKeys.Read(c).Training.Checked();
                        c.Finish("kt train");
                    }
                );
            case "rules.yaml":
                return (File.ReadAllBytes(Path.Combine(Checkout.Root, "rules/DeepSeek-V2-Lite-Chat-sft-amx.yaml")),
                    bytes => PlacementRules.Load(Put(kind, bytes)));
            case "rows.json" or "rows.jsonl" or "rows.csv":
                File.WriteAllText(Path.Combine(folder, "dataset_info.json"), "{\"rows\": {\"file_name\": \"" + kind + "\"}}");
                return (Rows(kind), bytes =>
                {
                    Put(kind, bytes);
                    DatasetLoader.Read(folder, "rows", need: Need.Answer);
                }
                );
            case "dataset_info.json":
                Put("rows.jsonl", Rows("rows.jsonl"));
                return (Text("""{"rows": {"file_name": "rows.jsonl", "columns": {"prompt": "instruction", "response": "output"}, "num_samples": 2}}"""),
                    bytes =>
                {
                    Put(kind, bytes);
                    DatasetLoader.Read(folder, "rows");
                }
                );
            case "adapter.gguf":
                return (Gguf(), bytes =>
                {
                    using var adapter = AdapterSource.Open(Put(kind, bytes));
                    foreach (var tensor in adapter.Tensors.Values) tensor.Read();
                }
                );
            case "notebook.ipynb":
                return (Text("""
                    {"cells": [
                      {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# A\n", "text"]},
                      {"cell_type": "code", "id": "b", "metadata": {"tags": ["parameters"]}, "execution_count": 1, "outputs": [], "source": "int n = 1;"},
                      {"cell_type": "code", "id": "c", "metadata": {}, "execution_count": null, "outputs": [], "source": ["n +\n", " 1"]}],
                     "metadata": {"kernelspec": {"display_name": "C#", "language": "C#", "name": "ktnotebooks"}, "language_info": {"name": "C#"}},
                     "nbformat": 4, "nbformat_minor": 5}
                    """), bytes =>
                {
                    var notebook = NotebookFile.Read(Put(kind, bytes));
                    new NotebookParameters(["n=5"]).Inject(notebook);
                    foreach (var cell in notebook.CodeCells) _ = (NotebookFile.Source(cell), NotebookFile.Tags(cell));
                    notebook.Write(Path.Combine(folder, "written.ipynb"));
                }
                );
            case "adapter_config.json" or "adapter_model.safetensors":
                using (var run = FineTuneRun.Open([.. place.Train("lora_experts=true", "max_steps=1")[1..^1], $"output_dir={folder}-made", "max_steps=1"]))
                    run.Run(TestContext.Current.CancellationToken);
                Copy(folder + "-made");
                return (File.ReadAllBytes(Path.Combine(folder, kind)), bytes =>
                {
                    Put(kind, bytes);
                    using var model = ModelFolder.Load(place.Model, Tensors.DType.F32);
                    AdapterFolder.Load(model, folder);
                }
                );
            default:
                Copy(place.Model);
                return (File.ReadAllBytes(Path.Combine(folder, kind)), bytes =>
                {
                    Put(kind, bytes);
                    if (kind == "tokenizer.json") _ = Tokenizer.Load(folder).Encode("Hello 主人");
                    else using (ModelFolder.Load(folder, Tensors.DType.F32)) { }
                }
                );
        }
    }

    /// <summary>A pair of one linear layer and one of two stacked experts, as llama.cpp writes them.</summary>
    private static byte[] Gguf()
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        (string Name, ulong[] Sides)[] tensors =
        [
            ("blk.0.attn_output.weight.lora_a", [16, 2]), ("blk.0.attn_output.weight.lora_b", [2, 16]),
            ("blk.1.ffn_up_exps.weight.lora_a", [16, 2, 2]), ("blk.1.ffn_up_exps.weight.lora_b", [2, 8, 2]),
        ];
        (string Key, object Value)[] pairs =
            [("general.type", "adapter"), ("general.architecture", "qwen3moe"), ("adapter.type", "lora"), ("adapter.lora.alpha", 16f)];
        void Write(string text)
        {
            writer.Write((ulong)text.Length);
            writer.Write(System.Text.Encoding.ASCII.GetBytes(text));
        }
        writer.Write("GGUF"u8);
        writer.Write(3u);
        writer.Write((ulong)tensors.Length);
        writer.Write((ulong)pairs.Length);
        foreach (var (key, value) in pairs)
        {
            Write(key);
            writer.Write(value is string ? 8u : 6u);
            if (value is string text) Write(text);
            else writer.Write((float)value);
        }
        var offset = 0ul;
        foreach (var (name, sides) in tensors)
        {
            Write(name);
            writer.Write((uint)sides.Length);
            foreach (var side in sides) writer.Write(side);
            writer.Write(0u);
            writer.Write(offset);
            offset += (sides.Aggregate(4ul, (bytes, side) => bytes * side) + 31) / 32 * 32;
        }
        while (stream.Length % 32 != 0) writer.Write((byte)0);
        writer.Write(new byte[offset]);
        return stream.ToArray();
    }

    /// <summary>One to three slips: a byte changed, a stretch cut, doubled or turned, a number made extreme, the end cut off.</summary>
    private static byte[] Damage(byte[] bytes, StableRandom random)
    {
        List<byte> damaged = [.. bytes];
        string[] extremes = ["-1", "0", "2147483647", "2147483648", "1e300", "99999999999999999999", "null", "true", "\"x\"", "[]", "{}"];
        for (var slip = random.Next(3); slip >= 0 && damaged.Count > 1; slip--)
        {
            // Binary files have their sizes and names in front.
            var at = random.Next(random.Next(2) == 0 ? damaged.Count : Math.Min(damaged.Count, 4096));
            var length = Math.Min(1 + random.Next(24), damaged.Count - at);
            switch (random.Next(6))
            {
                case 0: damaged[at] = (byte)random.Next(256); break;
                case 1: damaged.RemoveRange(at, length); break;
                case 2: damaged.InsertRange(at, damaged.GetRange(at, length)); break;
                case 3: damaged.Reverse(at, length); break;
                case 4:
                    var digit = damaged.FindIndex(at, b => b is >= (byte)'0' and <= (byte)'9');
                    if (digit < 0) break;
                    var end = digit;
                    while (end < damaged.Count && damaged[end] is >= (byte)'0' and <= (byte)'9') end++;
                    damaged.RemoveRange(digit, end - digit);
                    damaged.InsertRange(digit, System.Text.Encoding.ASCII.GetBytes(extremes[random.Next(extremes.Length)]));
                    break;
                default: damaged.RemoveRange(at, damaged.Count - at); break;
            }
        }
        return [.. damaged];
    }
}
