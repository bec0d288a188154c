using System.Diagnostics;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>The program kt as a process of its own.</summary>
internal sealed class Kt : IDisposable
{
    private readonly Process _process;
    private readonly Task<string> _output;
    private readonly Task<string> _errors;

    private Kt(string[] arguments, params (string Name, string Value)[] variables)
        : this(Program, arguments, variables)
    {
    }

    private Kt(string program, string[] arguments, (string Name, string Value)[] variables)
    {
        var start = new ProcessStartInfo(program, arguments)
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            RedirectStandardInput = true,
            WorkingDirectory = Checkout.Root,
        };
        start.Environment["KT_THREADS"] = "1"; // many tests run beside each other
        foreach (var (name, value) in variables) start.Environment[name] = value;
        _process = Process.Start(start)!;
        _process.StandardInput.Close(); // whoever asks for a line hears the end, not the terminal of the test run
        _output = _process.StandardOutput.ReadToEndAsync();
        _errors = _process.StandardError.ReadToEndAsync();
    }

    public static Kt Start(params string[] arguments) => new(arguments);

    /// <summary>With one more variable of the environment.</summary>
    public static Kt StartWith(string variable, string value, params string[] arguments) => new(arguments, (variable, value));

    /// <summary>With more variables of the environment.</summary>
    public static Kt StartWith((string Name, string Value)[] variables, params string[] arguments) => new(arguments, variables);

    /// <summary>By another program, whose arguments name kt.</summary>
    public static Kt StartBy(string program, (string Name, string Value)[] variables, params string[] arguments) => new(program, arguments, variables);

    /// <summary>Where kt is.</summary>
    public static string Program => Path.Combine(AppContext.BaseDirectory, "kt");

    /// <summary>Of the process that was started.</summary>
    public int Id => _process.Id;

    /// <summary>Runs to the end.</summary>
    public static (int Exit, string Output, string Errors) Run(params string[] arguments)
    {
        using var kt = Start(arguments);
        return kt.End();
    }

    /// <summary>The peak of resident memory that kt says at its end.</summary>
    public static double PeakMegabytes(string output) =>
        double.Parse(System.Text.RegularExpressions.Regex.Match(output, @"peak memory ([\d.]+) MB").Groups[1].Value,
            System.Globalization.CultureInfo.InvariantCulture);

    /// <summary>Runs what must be refused: exit code 2 and exactly one line on standard error, which is returned.</summary>
    public static string Refuses(params string[] arguments)
    {
        var (exit, output, errors) = Run(arguments);
        Assert.True(exit == 2 && errors.EndsWith('\n') && errors.IndexOf('\n', StringComparison.Ordinal) == errors.Length - 1,
            $"kt {string.Join(' ', arguments)}: exit {exit}\n{output}\n{errors}");
        Assert.StartsWith("kt: ", errors, StringComparison.Ordinal);
        return errors[4..^1];
    }

    public (int Exit, string Output, string Errors) End(int minutes = 1)
    {
        Assert.True(_process.WaitForExit(TimeSpan.FromMinutes(minutes)), $"kt did not end within {minutes} min");
        return (_process.ExitCode, _output.Result, _errors.Result);
    }

    public bool EndsWithin(TimeSpan time) => _process.WaitForExit(time);

    /// <summary>Waits until something on the disk is so, while the process runs.</summary>
    public void Until(Func<bool> so)
    {
        var watch = Stopwatch.StartNew();
        while (!so())
        {
            Assert.False(_process.HasExited, $"kt ended too early: {(_process.HasExited ? _errors.Result + _output.Result : "")}");
            Assert.True(watch.Elapsed < TimeSpan.FromSeconds(60), "nothing happened within a minute");
            Thread.Sleep(5);
        }
    }

    /// <summary>SIGKILL: no handler of the program runs.</summary>
    public void Kill() => _process.Kill();

    /// <summary>What Ctrl-C sends.</summary>
    public void Interrupt() => Signal("INT");

    /// <summary>Sends a signal by its name.</summary>
    public void Signal(string name)
    {
        using var kill = Process.Start("kill", ["-" + name, _process.Id.ToString()]);
        kill.WaitForExit();
    }

    public bool HasEnded => _process.HasExited;

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }
}
