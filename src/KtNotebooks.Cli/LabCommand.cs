using System.CommandLine;
using System.ComponentModel;
using System.Diagnostics;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter;

namespace KtNotebooks.Cli;

/// <summary>kt notebook lab: JupyterLab, or the classic Notebook where that is not, with our kernel in it. Nothing is installed.</summary>
internal static class LabCommand
{
    /// <summary>Best first. Debian has the second in its package jupyter-notebook.</summary>
    private static readonly string[] Programs = ["jupyter-lab", "jupyter-notebook"];

    public static Command Create()
    {
        var folder = new Argument<string?>("FOLDER") { Description = "with the notebooks (default: the course)", Arity = ArgumentArity.ZeroOrOne };
        var port = new Option<int?>("--port") { Description = "to serve at (default: 8888 or the next that is free)" };
        var noBrowser = new Option<bool>("--no-browser") { Description = "only say the address" };
        var classic = new Option<bool>("--classic") { Description = "the classic Notebook, where both are here" };
        var command = new Command("lab", "open notebooks in the browser, in JupyterLab or the classic Notebook of this machine") {
            folder, port, noBrowser, classic,
        };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            // The course leads to docs/ and rules/ beside it: they are served too, and it opens at the course.
            var served = Path.GetFullPath(parsed.GetValue(folder) ?? Repository.Root);
            if (!Directory.Exists(served)) throw new DirectoryNotFoundException($"{served}: no such folder");
            if (Array.Find(parsed.GetValue(classic) ? Programs[1..] : Programs, p => Find(p) is not null) is not { } program)
                return Failures.Refuse("no Jupyter is on this machine; type: sudo apt-get install -y jupyter-notebook, or: pip install jupyterlab");
            List<string> arguments = [$"--notebook-dir={served}"];
            if (parsed.GetValue(folder) is null)
                arguments.Add(program == Programs[0] ? "--ServerApp.default_url=/lab/tree/notebooks" : "--NotebookApp.default_url=/tree/notebooks");
            if (parsed.GetValue(port) is { } at) arguments.Add($"--port={at}");
            if (parsed.GetValue(noBrowser)) arguments.Add("--no-browser");
            if (Environment.UserName == "root") arguments.Add("--allow-root"); // in a container; it refuses otherwise
            return Serve(Find(program)!, arguments, cancel);
        }, CancellationToken.None));
        return command;
    }

    private static int Serve(string program, IEnumerable<string> arguments, CancellationToken cancel)
    {
        var prefix = Directory.CreateTempSubdirectory("kt-lab-");
        try
        {
            KernelSpec.Install(prefix.FullName, KernelCommands.Start());
            // Debian's program belongs to Debian's Python, before which another one often stands in PATH.
            var start = program.StartsWith("/usr/bin/", StringComparison.Ordinal) && File.Exists("/usr/bin/python3")
                ? new ProcessStartInfo("/usr/bin/python3", [program, .. arguments]) : new ProcessStartInfo(program, arguments);
            var data = Path.Combine(prefix.FullName, "share", "jupyter");
            start.Environment["JUPYTER_PATH"] = Environment.GetEnvironmentVariable("JUPYTER_PATH") is { Length: > 0 } others ? $"{data}:{others}" : data;
            using var server = Process.Start(start)!;
            // Ctrl-C reaches the server too, which asks whether it is meant; whoever stops kt otherwise stops the server.
            using var stop = cancel.Register(() =>
            {
                if (!server.WaitForExit(TimeSpan.FromSeconds(10))) server.Kill(entireProcessTree: true);
            });
            server.WaitForExit();
            return cancel.IsCancellationRequested ? 0 : server.ExitCode;
        }
        catch (Win32Exception e)
        {
            return Failures.Refuse($"{program} cannot be started: {e.Message}");
        }
        finally
        {
            prefix.Delete(recursive: true);
        }
    }

    private static string? Find(string program) => (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator)
        .Select(folder => Path.Combine(folder, program)).FirstOrDefault(File.Exists);
}
