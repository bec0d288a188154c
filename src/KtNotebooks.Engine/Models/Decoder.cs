using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Models;

/// <summary>
/// The loop that all models here have in common: token table → layers of two residual stages (norm and attention, norm and a dense or sparse feed-forward
/// part) → last norm → head, tied to the table or not. A model's file gives its attention and its feed-forward parts.
/// </summary>
/// <param name="Vocabulary">V.</param>
/// <param name="Width">D.</param>
/// <param name="Layers">Decoder layers.</param>
/// <param name="MaxPositions">Longest sequence that the model was made for.</param>
/// <param name="Eps">Of the norms.</param>
/// <param name="Tied">The head is the token table.</param>
internal sealed record Decoder(int Vocabulary, int Width, int Layers, int MaxPositions, float Eps, bool Tied)
{
    /// <summary>The fields that every config.json has under one name.</summary>
    public static Decoder Read(ConfigFile f) => new(f.Int("vocab_size"), f.Int("hidden_size"), f.Int("num_hidden_layers"), f.Int("max_position_embeddings"),
        (float)f.Number("rms_norm_eps", 1e-6), f.Flag("tie_word_embeddings"));

    /// <param name="modelType">`model_type` of the config.</param>
    /// <param name="weights">Where all tensors come from.</param>
    /// <param name="type">Of weights and activations.</param>
    /// <param name="attention">Of a layer by its number and path, `model.layers.7`.</param>
    /// <param name="feedForward">Likewise.</param>
    public CausalLm Build(string modelType, IWeights weights, DType type, Func<int, string, Block> attention, Func<int, string, Block> feedForward)
    {
        var stages = new List<Stage>();
        for (var layer = 0; layer < Layers; layer++)
        {
            var path = $"model.layers.{layer}";
            RmsNorm Norm(string name) => new(weights, $"{path}.{name}", Width, Eps);
            stages.Add(new Residual(path, Norm("input_layernorm"), attention(layer, path), wholeSequences: true));
            stages.Add(new Residual(path, Norm("post_attention_layernorm"), feedForward(layer, path)));
        }
        var embedding = new Embedding(weights, "model.embed_tokens", type, Vocabulary, Width);
        var head = Tied ? Linear.Tied("lm_head", embedding) : new Linear(weights, "lm_head", type, Vocabulary, Width);
        var last = new RmsNorm(weights, "model.norm", Width, Eps);
        return new CausalLm(new ModelInfo(modelType, Vocabulary, Width, Layers, MaxPositions), type, embedding, stages, last, head);
    }
}
