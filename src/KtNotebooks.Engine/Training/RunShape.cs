using KtNotebooks.Lora;
using KtNotebooks.Models;

namespace KtNotebooks.Training;

/// <summary>The constants of a run that its files tell.</summary>
/// <param name="TotalSteps">max_steps of trainer_state.json.</param>
/// <param name="Epochs">num_train_epochs, begun ones counted whole.</param>
/// <param name="BatchSize">Rows of a micro-batch.</param>
/// <param name="LoggingSteps">0 where logging does not go by steps; the next two likewise.</param>
/// <param name="FlosPerToken">6 a parameter outside the token table, Hugging Face's count; of a mixture of experts, of which a token sees a part, it
/// is above the truth.</param>
public sealed record RunShape(int TotalSteps, int Epochs, int BatchSize, int LoggingSteps, int SaveSteps, int EvalSteps, double FlosPerToken)
{
    public double FlosOf(long tokens) => FlosPerToken * tokens;

    internal static double FlosPerTokenOf(CausalLm model) =>
        6.0 * (model.AllWeights.Sum(w => w.Count) + AdapterTensors.Of(model).Sum(Counted) - model.Embedding.Weight.Count);

    private static long Counted((string Name, Tensor Tensor) pair)
    {
        using (pair.Tensor) return pair.Tensor.Count;
    }
}
