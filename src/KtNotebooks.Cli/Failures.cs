using System.CommandLine;
using System.Diagnostics;
using System.Text.RegularExpressions;

using KtNotebooks.Distributed;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;

namespace KtNotebooks.Cli;

/// <summary>
/// Exit codes: 0 done, 1 a check said no, 2 bad input or a refused request (one clear line on standard error), 3 a card was lost on the way, 4
/// another rank was lost, 70 a fault of ours, 130 stopped by a signal. KT_FULL_TRACE=1 prints the trace behind every line.
/// </summary>
internal static partial class Failures
{
    public static async Task<int> Guard(Func<Task<int>> run)
    {
        try
        {
            var code = await run();
            Ranks.Leave();
            return code;
        }
        catch (OperationCanceledException)
        {
            if (!Ranks.Current.Abort("stopped")) Console.Error.WriteLine("stopped");
            return Signals.Stopped;
        }
        catch (AggregateException several) // of rows that are encoded on all processors: the first is as good as any
        {
            return await Guard(() => Task.FromException<int>(several.Flatten().InnerExceptions[0]));
        }
        catch (GpuLostException lost)
        {
            return Lost(lost);
        }
        catch (KtNativeException failed) when (CudaDevice.FindLost() is { } card)
        {
            return Lost(GpuLostException.During(card, "on the way", failed, ""));
        }
        catch (Exception error) when (error is ArgumentException or IOException or InvalidDataException or NotSupportedException or UnauthorizedAccessException
            or InvalidOperationException or InsufficientMemoryException)
        {
            return Say(OfFile(error) ?? error.Message, error, 2);
        }
        catch (OutOfMemoryException full)
        {
            return Say("the memory of this machine is not enough for that; `kt plan` says what a run needs", full, 2);
        }
#pragma warning disable CA1031 // What nobody expected is a line too.
        catch (Exception fault)
#pragma warning restore CA1031
        {
            var place = new StackTrace(fault).GetFrames().Select(frame => frame.GetMethod())
                .FirstOrDefault(method => method?.DeclaringType?.Namespace?.StartsWith("KtNotebooks", StringComparison.Ordinal) == true);
            return Say($"a fault in kt itself: {fault.GetType().Name}{(place is null ? "" : $" in {place.DeclaringType!.Name}.{place.Name}")}: "
                + $"{fault.Message} KT_FULL_TRACE=1 shows its trace; please report it", fault, 70);
        }
    }

    /// <summary>What .NET says of a file that nobody here has put into words, in ours; null: it is said in ours.</summary>
    internal static string? OfFile(Exception error)
    {
        if (error is not (IOException or UnauthorizedAccessException) || FilePath().Match(error.Message) is not { Success: true } found) return null;
        var path = found.Groups["path"].Value;
        return error switch
        {
            UnauthorizedAccessException => $"{path}: this user may not read or write there",
            FileNotFoundException or DirectoryNotFoundException => $"{path}: no such file or folder",
            _ => $"{path}: {found.Groups["cause"].Value}",
        };
    }

    [GeneratedRegex(@"^(?:(?:Access to the path|Could not find (?:file|a part of the path)) '(?<path>[^']*)'|(?<cause>[^':]+) : '(?<path>[^']*)')")]
    private static partial Regex FilePath();

    private static int Lost(GpuLostException lost) => Say(lost.Message, lost, 3);

    private static int Say(string line, Exception error, int code)
    {
        if (!Ranks.Current.Abort(Short(line.ReplaceLineEndings(" ")))) Refuse(line);
        if (Environment.GetEnvironmentVariable("KT_FULL_TRACE") == "1") Console.Error.WriteLine(error);
        return code;
    }

    /// <summary>A command line that is none.</summary>
    public static int Refuse(ParseResult parsed) => Refuse(CommandLineErrors.Describe(parsed));

    /// <summary>The one line of a refused request; returns its exit code.</summary>
    public static int Refuse(string message)
    {
        Console.Error.WriteLine($"kt: {Short(message.ReplaceLineEndings(" "))}");
        return 2;
    }

    /// <summary>What a file holds may be quoted in an error, and may be long; its beginning and its end say what is wrong and what to do.</summary>
    private static string Short(string line) => line.Length <= 2000 ? line : $"{line[..1400]} … {line[^500..]}";
}
