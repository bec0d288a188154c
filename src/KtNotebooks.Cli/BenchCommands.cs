using System.CommandLine;

namespace KtNotebooks.Cli;

/// <summary>`kt bench …`: every speed that the project names is printed by one of these, after its result has been checked.</summary>
internal static class BenchCommands
{
    public static Command Create() => new("bench", "Measure speed; every measurement checks its result first")
    {
        BenchTrainCommand.Create(),
        BenchGenerateCommand.Create(),
        BenchServeCommand.Create(),
        BenchLoadCommand.Create(),
        BenchDiskCommand.Create(),
        BenchExpertsCommand.Create(),
        BenchCpuCommand.Create(),
        BenchKernelsCommand.Create(),
        BenchCeilingCommands.CreatePcie(),
        BenchCeilingCommands.CreateGemm(),
        TokenizerBench.Create(),
        BenchRowsCommand.Create(),
        BenchAttentionCommand.Create(),
    };
}
