using System.Diagnostics;
using System.Runtime.CompilerServices;

using KtNotebooks.Jupyter;

using Xunit;

namespace KtNotebooks.Tests.Jupyter;

/// <summary>The kernel as its clients see it: Python test programs talk to it over real sockets.</summary>
public sealed class KernelTests(ITestOutputHelper output) : IDisposable
{
    private const string Python = "/usr/bin/python3";
    private const int MinutesAllowed = 5;
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("kt-kernel-tests-");

    [Fact]
    public void Passes_Jupyters_own_suite_without_a_skip()
    {
        var report = RunPython("kernel_tests.py", "jupyter_kernel_test");
        Assert.DoesNotContain("skipped", report, StringComparison.Ordinal);
    }

    [Fact]
    public void Passes_our_protocol_suite() => RunPython("protocol_tests.py", "nbclient");

    [Fact]
    public void Survives_what_harms_a_kernel() => RunPython("harm_tests.py", "jupyter_client");

    public void Dispose() => _folder.Delete(recursive: true);

    private string RunPython(string script, string module)
    {
        if (!Works("-c", $"import {module}")) Skip($"{module} is missing for {Python} (Debian: python3-jupyter-kernel-test, python3-nbclient)");
        var program = Path.Combine(AppContext.BaseDirectory, "kt");
        KernelSpec.Install(_folder.FullName, [program, "kernel", "run", "--connection-file", "{connection_file}"]);
        var start = new ProcessStartInfo(Python, [Path.Combine(Path.GetDirectoryName(ThisFile())!, script)])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        start.Environment["JUPYTER_PATH"] = Path.Combine(_folder.FullName, "share", "jupyter");
        start.Environment["KT_TEST_FOLDER"] = _folder.FullName;
        start.Environment["KT_TEST_PROGRAM"] = program;
        start.Environment["PYTHONDONTWRITEBYTECODE"] = "1";
        using var process = Process.Start(start)!;
        var printed = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var report = process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        if (!process.WaitForExit(TimeSpan.FromMinutes(MinutesAllowed)))
        {
            process.Kill(entireProcessTree: true);
            Assert.Fail($"{script} did not end within {MinutesAllowed} minutes\n{Last(report.Result)}");
        }
        output.WriteLine(printed.Result);
        Assert.True(process.ExitCode == 0, Last(report.Result));
        return report.Result;
    }

    /// <summary>The end of a report: unittest's summary of what failed.</summary>
    private static string Last(string report) => string.Join('\n', report.Split('\n').TakeLast(30));

    private static bool Works(params string[] arguments)
    {
        if (!File.Exists(Python)) return false;
        using var process = Process.Start(new ProcessStartInfo(Python, arguments) { RedirectStandardError = true })!;
        process.WaitForExit();
        return process.ExitCode == 0;
    }

    private static void Skip(string reason)
    {
        var required = Environment.GetEnvironmentVariable("KT_REQUIRE")?.Split(',') ?? [];
        if (required.Contains("jupyter")) Assert.Fail(reason);
        Assert.Skip(reason);
    }

    private static string ThisFile([CallerFilePath] string path = "") => path;
}
