using System.CommandLine;

using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Cli;

/// <summary>
/// Exit codes: 0 done, 1 a check said no, 2 bad input or a refused request (one clear line on standard error), 3 a card was lost on the way, 130 stopped by Ctrl-C. Anything else is a fault of ours and prints its trace.
/// </summary>
internal static class Failures
{
    public static async Task<int> Guard(Func<Task<int>> run)
    {
        try
        {
            return await run();
        }
        catch (OperationCanceledException)
        {
            Console.Error.WriteLine("stopped");
            return 130;
        }
        catch (CardLostException lost)
        {
            return Lost(lost);
        }
        catch (KtNativeException failed) when (CudaDevice.FindLost() is { } card)
        {
            return Lost(CardLostException.During(card, "on the way", failed, ""));
        }
        catch (Exception error) when (error is ArgumentException or IOException or InvalidDataException or NotSupportedException or UnauthorizedAccessException or InvalidOperationException or InsufficientMemoryException)
        {
            var code = Refuse(error.Message);
            if (Environment.GetEnvironmentVariable("KT_FULL_TRACE") == "1") Console.Error.WriteLine(error);
            return code;
        }
    }

    private static int Lost(CardLostException lost)
    {
        Refuse(lost.Message);
        if (Environment.GetEnvironmentVariable("KT_FULL_TRACE") == "1") Console.Error.WriteLine(lost);
        return 3;
    }

    /// <summary>A command line that is none.</summary>
    public static int Refuse(ParseResult parsed) => Refuse(CommandLineErrors.Describe(parsed));

    /// <summary>The one line of a refused request; returns its exit code.</summary>
    public static int Refuse(string message)
    {
        Console.Error.WriteLine($"kt: {message.ReplaceLineEndings(" ")}");
        return 2;
    }
}
