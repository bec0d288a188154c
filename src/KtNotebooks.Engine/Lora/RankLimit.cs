using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// B·A has at most the rank of the matrix that it is added to, its smaller side. A rank above that of every matrix that it adapts adds nothing but memory,
/// and is a slip (a width or an alpha in the place of the rank).
/// </summary>
internal static class RankLimit
{
    /// <summary>Asked before anything is allocated.</summary>
    /// <param name="modules">Those that get pairs.</param>
    /// <param name="settings">Their ranks.</param>
    /// <param name="key">What gave the rank, as the error begins.</param>
    /// <exception cref="ArgumentException">A rank that is too large, with the numbers.</exception>
    public static void Require(IReadOnlyList<IAdaptable> modules, LoraSettings settings, string key)
    {
        (string Path, int Inputs, int Outputs, int Rank, int Count)[] matrices = [.. modules.SelectMany(m => m.Targets.Zip(
            LoraAdapter.RanksOf(m, settings).Ranks, (t, rank) => (t.PathOf(0), t.Inputs, t.Outputs, rank, t.Count)))];
        foreach (var group in matrices.GroupBy(m => m.Rank))
        {
            var (path, inputs, outputs, rank, _) = group.MaxBy(m => (Math.Min(m.Inputs, m.Outputs), Math.Max(m.Inputs, m.Outputs)));
            if (rank > Math.Min(inputs, outputs))
                throw new ArgumentException($"{key} {rank} is larger than {Math.Min(inputs, outputs)}, the smaller side of the largest matrix that it " +
                    $"adapts ({path}, {outputs} × {inputs}); a pair of a larger rank can say nothing more");
        }
        foreach (var (path, inputs, outputs, rank, stacked) in matrices)
            if ((long)stacked * rank * Math.Max(inputs, outputs) is > int.MaxValue and var values)
                throw new ArgumentException($"{key} {rank} makes {values:N0} values of the stacked pairs of {path} and its like; {int.MaxValue:N0} " +
                    "are the most, so give a smaller rank");
    }

    /// <summary>Asks whether fresh pairs in host memory, with their gradients and two moments each, fit there.</summary>
    /// <exception cref="InsufficientMemoryException">They do not.</exception>
    public static void RequireRoom(IEnumerable<IAdaptable> modules, LoraSettings settings)
    {
        var values = modules.Where(m => m.AdapterDevice.Kind == DeviceKind.Cpu).Sum(m => LoraAdapter.Elements(m, settings));
        HostMemory.Require(4 * sizeof(float) * values, "give a smaller lora_rank, or train fewer modules (lora_target, lora_experts)");
    }
}
