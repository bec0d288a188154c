using KtNotebooks.Jupyter.Notebooks;

namespace KtNotebooks.Tests.Notebooks;

/// <summary>Real Jupyter for a test, with the kernel that was built beside it.</summary>
internal static class Jupyters
{
    internal static string[] KernelCommand { get; } = [Path.Combine(AppContext.BaseDirectory, "kt"), "kernel", "run", "--connection-file", "{connection_file}"];

    /// <summary>A runner with the kernel installed in a folder of the test; without nbclient the test is skipped.</summary>
    internal static JupyterRunner Create(string folder)
    {
        var runner = JupyterRunner.Create(folder, KernelCommand);
        Require.Hardware("jupyter", runner is null ? "no Python here has nbclient (Debian: python3-nbclient)" : null);
        return runner!;
    }
}
