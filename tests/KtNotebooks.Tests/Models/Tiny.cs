using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Weights;

namespace KtNotebooks.Tests.Models;

/// <summary>A DeepSeek-V2 model small enough for a test: one dense and two MoE layers, random weights, sizes that are no multiples of a vector.</summary>
internal static class Tiny
{
    /// <summary>Room for <see cref="Samples.Small"/>'s tokens.</summary>
    public const int Vocabulary = 512;

    public const int Experts = 4;

    public const string Config = """
        {
          "model_type": "deepseek_v2", "vocab_size": 512, "hidden_size": 40, "num_hidden_layers": 3, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
          "q_lora_rank": null, "kv_lora_rank": 20, "num_attention_heads": 2, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10, "rope_theta":
          10000.0, "rope_scaling": null,
          "first_k_dense_replace": 1, "intermediate_size": 44, "moe_intermediate_size": 18, "n_routed_experts": 4, "n_shared_experts": 1,
          "num_experts_per_tok": 2,
          "norm_topk_prob": false, "routed_scaling_factor": 1.0, "tie_word_embeddings": false
        }
        """;

    /// <summary>Fresh weights, experts stacked. The deviation is large, so that a loss has slopes worth measuring.</summary>
    /// <param name="chosen">Experts a token; with all of them no small change of the weights can move a token to another expert.</param>
    public static CausalLm Build(DType type = DType.F32, ulong seed = 1, int chosen = 2)
    {
        using var folder = new Samples.Folder();
        var config = Config.Replace("\"num_experts_per_tok\": 2", $"\"num_experts_per_tok\": {chosen}", StringComparison.Ordinal);
        return ModelFolder.Build(new ConfigFile(folder.Write("config.json", config)), new RandomWeights(seed, deviation: 0.2f), type);
    }

    /// <summary>The same model as a folder: config.json, model.safetensors (F32) and the small tokenizer.</summary>
    /// <param name="change">Another config of the same kind.</param>
    public static string Save(string folder, ulong seed = 1, Func<string, string>? change = null)
    {
        Directory.CreateDirectory(folder);
        var config = Path.Combine(folder, "config.json");
        File.WriteAllText(config, change?.Invoke(Config) ?? Config);
        using var model = ModelFolder.Build(new ConfigFile(config), new RandomWeights(seed, deviation: 0.2f), DType.F32);
        ModelWriter.Save(model, config, folder, DType.F32);
        Samples.Small.Save(folder);
        return folder;
    }

    /// <summary>The model with a low-rank pair beside every linear and expert, B random too, so that every gradient says something.</summary>
    public static CausalLm WithAdapter(DType type = DType.F32, double dropout = 0, ulong seed = 1, int chosen = 2)
    {
        var model = Build(type, seed, chosen);
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Dropout: dropout, Experts: true), seed);
        var random = new Random((int)seed);
        foreach (var (_, tensor) in model.AllTrainable)
            tensor.Store([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => (random.NextSingle() - 0.5f) * 0.3f)]);
        return model;
    }

    /// <summary>The gradients by name, taken off the parameters.</summary>
    public static Dictionary<string, float[]> TakeGradients(CausalLm model)
    {
        var gradients = model.AllTrainable.ToDictionary(p => p.Name, p => p.Tensor.Grad!.ToFloats());
        DropGradients(model);
        return gradients;
    }

    public static void DropGradients(CausalLm model)
    {
        foreach (var (_, tensor) in model.AllTrainable)
        {
            tensor.Grad?.Dispose();
            tensor.Grad = null;
        }
    }

    /// <summary>Buffers that are alive when everything forgotten has been collected.</summary>
    public static (long Count, long Bytes) Alive()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        return (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes);
    }

    /// <summary>Sequences of these lengths with random tokens; about two of three have a target, each of the same weight, the whole a mean.</summary>
    public static TokenBatch Batch(int seed, params ReadOnlySpan<int> lengths)
    {
        var random = new Random(seed);
        List<(int[] Ids, int[] Labels)> sequences = [];
        foreach (var length in lengths)
        {
            int[] ids = [.. Enumerable.Range(0, length).Select(_ => random.Next(Vocabulary))];
            sequences.Add((ids, [.. ids.Select(id => random.Next(3) > 0 ? id : -100)]));
        }
        var targets = sequences.Sum(s => s.Labels.Skip(1).Count(l => l >= 0));
        var builder = new TokenBatch.Builder();
        foreach (var (ids, labels) in sequences) builder.Add(ids, labels, 1f / targets);
        return builder.Build();
    }
}
