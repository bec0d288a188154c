using System.Diagnostics;
using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>
/// Executes notebooks through real Jupyter: nbclient starts our kernel from a kernel spec and talks to it over sockets, as a notebook server would.
/// <see cref="NotebookRunner"/> is the way without Python.
/// </summary>
public sealed class JupyterRunner
{
    private static readonly string[] Pythons = ["/usr/bin/python3", "python3"];
    private static readonly TimeSpan Farewell = TimeSpan.FromSeconds(15);
    private readonly string _python;
    private readonly string _prefix;

    private JupyterRunner(string python, string prefix) => (_python, _prefix) = (python, prefix);

    /// <param name="prefix">A folder of this runner's own; the kernel is installed in it, so that none that the user has is touched.</param>
    /// <param name="kernelCommand">As for <see cref="KernelSpec.Install"/>.</param>
    /// <returns>Null where no Python has nbclient (Debian: python3-nbclient).</returns>
    public static JupyterRunner? Create(string prefix, IReadOnlyList<string> kernelCommand)
    {
        // Debian's packages belong to Debian's Python; another one often stands before it in PATH.
        if (Array.Find(Pythons, HasNbclient) is not { } python) return null;
        KernelSpec.Install(prefix, kernelCommand);
        return new JupyterRunner(python, Path.GetFullPath(prefix));
    }

    /// <summary>Runs a notebook in its own folder until a cell fails.</summary>
    /// <param name="path">The .ipynb to run.</param>
    /// <param name="output">Where the executed notebook goes, also when a cell fails. Not written when the run is cancelled.</param>
    /// <param name="progress">Told when a code cell starts: its number, from 1, and how many there are.</param>
    /// <exception cref="OperationCanceledException"><paramref name="cancel"/> came first; the kernel is gone.</exception>
    /// <exception cref="InvalidOperationException">Jupyter itself failed: its last words.</exception>
    public NotebookResult Run(string path, string output, Action<int, int>? progress, CancellationToken cancel)
    {
        if (!File.Exists(path)) throw new FileNotFoundException($"[notebook] {path} does not exist", path);
        cancel.ThrowIfCancellationRequested();
        using var process = Start("-c", Script(), Path.GetFullPath(path), Path.GetFullPath(output), KernelSpec.Name);
        using var stop = cancel.Register(() => Stop(process));
        var words = process.StandardError.ReadToEndAsync(CancellationToken.None);
        JsonNode? last = null;
        while (process.StandardOutput.ReadLine() is { } line)
        {
            last = JsonNode.Parse(line);
            if (last?["cells"] is { } cells) progress?.Invoke((int)last["cell"]!, (int)cells);
        }
        process.WaitForExit();
        cancel.ThrowIfCancellationRequested();
        if (process.ExitCode != 0 || last is not JsonObject end || !end.ContainsKey("error"))
        {
            throw new InvalidOperationException($"[Jupyter] running {path} failed: {LastLine(words.Result)}");
        }
        var cell = (int)end["cell"]!;
        var error = (string?)end["error"];
        return new NotebookResult(error is null, cell, error is null ? null : $"code cell {cell}: {error}") { KernelPeakBytes = (long?)end["peak"] };
    }

    private Process Start(params string[] arguments)
    {
        var start = new ProcessStartInfo(_python, arguments) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        var data = Path.Combine(_prefix, "share", "jupyter");
        start.Environment["JUPYTER_PATH"] = Environment.GetEnvironmentVariable("JUPYTER_PATH") is { Length: > 0 } others ? $"{data}:{others}" : data;
        start.Environment["JUPYTER_RUNTIME_DIR"] = Path.Combine(_prefix, "runtime");
        start.Environment["PYTHONDONTWRITEBYTECODE"] = "1";
        start.Environment["PYTHONIOENCODING"] = "utf-8";
        return Process.Start(start)!;
    }

    /// <summary>Asks by ending the program's standard input; kills it with its kernel when it does not listen.</summary>
    private static void Stop(Process process)
    {
        process.StandardInput.Close();
        if (!process.WaitForExit(Farewell)) process.Kill(entireProcessTree: true);
    }

    private static bool HasNbclient(string python)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(python, ["-c", "import nbclient"]) { RedirectStandardError = true })!;
            process.StandardError.ReadToEnd();
            process.WaitForExit();
            return process.ExitCode == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false; // no such program
        }
    }

    private static string Script()
    {
        using var reader = new StreamReader(typeof(JupyterRunner).Assembly.GetManifestResourceStream("jupyter_run.py")!);
        return reader.ReadToEnd();
    }

    private static string LastLine(string words) => words.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries).LastOrDefault()
        ?? "it said nothing";
}
