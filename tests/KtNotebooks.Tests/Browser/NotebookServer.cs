using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Browser;

/// <summary>`kt notebook lab` until disposed.</summary>
internal sealed partial class NotebookServer : IDisposable
{
    private readonly Process _process;
    private readonly TaskCompletionSource<string> _address = new();

    /// <param name="folder">Whose notebooks are served.</param>
    /// <param name="programs">A folder with a jupyter-lab that is found before all others; null: the classic Notebook.</param>
    public NotebookServer(string folder, string? programs = null)
    {
        using var free = new TcpListener(IPAddress.Loopback, 0);
        free.Start();
        var port = ((IPEndPoint)free.LocalEndpoint).Port;
        free.Stop();
        var start = new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "kt"),
            ["notebook", "lab", folder, "--no-browser", "--port", $"{port}", .. programs is null ? new[] { "--classic" } : []])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        start.Environment["JUPYTER_RUNTIME_DIR"] = Path.Combine(folder, "runtime");
        start.Environment["JUPYTER_CONFIG_DIR"] = Path.Combine(folder, "config");
        start.Environment["JUPYTER_DATA_DIR"] = Path.Combine(folder, "data");
        if (programs is not null) start.Environment["PATH"] = $"{programs}{Path.PathSeparator}{Environment.GetEnvironmentVariable("PATH")}";
        _process = Process.Start(start)!;
        List<string> said = [];
        _process.ErrorDataReceived += (_, line) =>
        {
            if (line.Data is null) _address.TrySetException(new InvalidOperationException(string.Join('\n', said)));
            else if (Url().Match(line.Data) is { Success: true } url) _address.TrySetResult(url.Value);
            said.Add(line.Data ?? "");
        };
        _process.OutputDataReceived += (_, _) => { };
        _process.BeginErrorReadLine();
        _process.BeginOutputReadLine();
    }

    /// <summary>Of a page of it, with the token.</summary>
    public async Task<string> Address(string page)
    {
        var address = await _address.Task.WaitAsync(TimeSpan.FromSeconds(60), TestContext.Current.CancellationToken);
        return Place().Replace(address, $"/{page}?token");
    }

    /// <summary>Writes a notebook of code cells for our kernel.</summary>
    /// <param name="folder">Where.</param>
    /// <param name="name">Of the file.</param>
    /// <param name="outputs">Stored in every cell.</param>
    /// <param name="cells">Their sources.</param>
    public static void Write(Samples.Folder folder, string name, JsonArray outputs, params string[] cells) => folder.Write(name, new JsonObject
    {
        ["cells"] = new JsonArray([.. cells.Select(c => new JsonObject
        {
            ["cell_type"] = "code",
            ["metadata"] = new JsonObject(),
            ["source"] = c,
            ["outputs"] = outputs.DeepClone(),
            ["execution_count"] = null,
        })]),
        ["metadata"] = new JsonObject { ["kernelspec"] = new JsonObject { ["name"] = "ktnotebooks", ["display_name"] = "C#", ["language"] = "C#" } },
        ["nbformat"] = 4,
        ["nbformat_minor"] = 4,
    }.ToJsonString());

    /// <summary>A cell that trains for ever, with a picture that moves, until it is stopped; steps says how far it came.</summary>
    public static string Training(Samples.Folder folder) => $$"""
        var steps = 0;
        using (var run = FineTuneRun.Open("notebooks/configs/neko-lora.yaml", "output_dir={{Path.Combine(folder.Path, "out")}}",
            "overwrite_output_dir=true", "num_train_epochs=1000"))
        using (var view = new TrainingView("live"))
        {
            run.Trainer.OnStep += s =>
            {
                steps = s.Step;
                view.Update(s.Step, s.TotalSteps, s.Loss, s.LearningRate, s.TokensPerSecond, s.Elapsed, s.Remaining);
            };
            run.Run(Cancel);
        }
        """;

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill(entireProcessTree: true);
        _process.WaitForExit();
        _process.Dispose();
    }

    [GeneratedRegex(@"http://(localhost|127\.0\.0\.1):\d+/(lab)?\?token=\w+")] private static partial Regex Url();

    [GeneratedRegex(@"/(lab)?\?token")] private static partial Regex Place();
}
