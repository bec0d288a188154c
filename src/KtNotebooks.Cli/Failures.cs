namespace KtNotebooks.Cli;

/// <summary>
/// Exit codes: 0 done, 1 a check said no, 2 bad input or a refused request (one clear line on standard error), 130 stopped by Ctrl-C. Anything else is a fault of ours and prints its trace.
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
        catch (Exception error) when (error is ArgumentException or IOException or InvalidDataException or NotSupportedException or UnauthorizedAccessException or InvalidOperationException)
        {
            var code = Refuse(error.Message);
            if (Environment.GetEnvironmentVariable("KT_FULL_TRACE") == "1") Console.Error.WriteLine(error);
            return code;
        }
    }

    /// <summary>The one line of a refused request; returns its exit code.</summary>
    public static int Refuse(string message)
    {
        Console.Error.WriteLine($"kt: {message.ReplaceLineEndings(" ")}");
        return 2;
    }
}
