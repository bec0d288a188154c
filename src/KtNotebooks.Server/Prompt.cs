using KtNotebooks.Generation;

namespace KtNotebooks.Server;

/// <summary>A request ready for the scheduler.</summary>
/// <param name="Request">All but the adapter, and what each of several answers has of its own.</param>
/// <param name="NewMask">For each answer its own; null: any tokens.</param>
/// <param name="NewReader">For each answer its own.</param>
internal sealed record Prompt(GenerationRequest Request, Func<ITokenMask>? NewMask, Func<AnswerReader> NewReader)
{
    /// <summary>The request of one of several answers.</summary>
    public GenerationRequest Of(int answer) => Request with
    {
        Sampling = answer == 0 ? Request.Sampling : Request.Sampling.Of(answer),
        Mask = NewMask?.Invoke(),
    };
}
