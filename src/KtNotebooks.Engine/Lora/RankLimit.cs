using KtNotebooks.Experts;
using KtNotebooks.Tensors;

namespace KtNotebooks.Lora;

/// <summary>
/// B·A has at most the rank of the matrix that it is added to, its smaller side. A rank above that of every matrix that it adapts adds nothing but memory,
/// and is a slip (a width or an alpha in the place of the rank).
/// </summary>
internal static class RankLimit
{
    /// <summary>Asked before anything is allocated.</summary>
    /// <param name="linears">Those that get pairs.</param>
    /// <param name="banks">The same.</param>
    /// <param name="settings">Their ranks.</param>
    /// <param name="key">What gave the rank, as the error begins.</param>
    /// <exception cref="ArgumentException">A rank that is too large, with the numbers.</exception>
    public static void Require(IReadOnlyList<Nn.Linear> linears, IReadOnlyList<ExpertBank> banks, LoraSettings settings, string key)
    {
        var matrices = linears.Select(l => (l.Path, l.Inputs, l.Outputs, Rank: settings.RankOf(l.Path), Stacked: 1)).ToList();
        foreach (var bank in banks)
        {
            var ((gate, up, down), _) = LoraAdapter.RanksOf(bank, settings);
            (string, int, int, int, int) Matrix(int projection, int inputs, int outputs, int rank) =>
                (bank.Names.All[projection].Module(0), inputs, outputs, rank, bank.Count);
            matrices.AddRange([Matrix(0, bank.Width, bank.Inner, gate), Matrix(1, bank.Width, bank.Inner, up), Matrix(2, bank.Inner, bank.Width, down)]);
        }
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
    public static void RequireRoom(IEnumerable<Nn.Linear> linears, IEnumerable<ExpertBank> banks, LoraSettings settings)
    {
        static bool OnHost(Device device) => device.Kind == DeviceKind.Cpu;
        var values = linears.Where(l => OnHost(l.Weight.Device)).Sum(l => (long)settings.RankOf(l.Path) * (l.Inputs + l.Outputs));
        foreach (var bank in banks.Where(b => OnHost(b.Device) || (b.LoraOnHost && b.Device.Kind == DeviceKind.Cuda))) // not a plan's model of shapes
        {
            var ((gate, up, down), _) = LoraAdapter.RanksOf(bank, settings);
            values += (long)bank.Count * (gate + up + down) * (bank.Width + bank.Inner);
        }
        HostMemory.Require(4 * sizeof(float) * values, "give a smaller lora_rank, or train fewer modules (lora_target, lora_experts)");
    }
}
