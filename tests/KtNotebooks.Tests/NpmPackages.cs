using System.Diagnostics;

namespace KtNotebooks.Tests;

/// <summary>Packages of npm, installed once into a folder under artifacts.</summary>
internal static class NpmPackages
{
    /// <summary>Installs what is not there; returns why that fails, or null.</summary>
    public static string? Install(string root, string[] packages)
    {
        try
        {
            var stamp = Path.Combine(root, "installed");
            if (File.Exists(stamp) && File.ReadAllLines(stamp).SequenceEqual(packages))
                return null;
            Directory.CreateDirectory(root);
            var (status, output, error) = Run("npm", ["install", "--prefix", root, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", .. packages]);
            if (status != 0)
                return $"npm install fails: {(error + output).ReplaceLineEndings(" ").Trim()}";
            File.WriteAllLines(stamp, packages);
            return null;
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            return $"npm cannot be run: {e.Message}";
        }
    }

    public static (int Status, string Output, string Error) Run(string program, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        var error = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEndAsync();
        if (!process.WaitForExit(TimeSpan.FromMinutes(10)))
        {
            process.Kill(entireProcessTree: true);
            return (-1, "", $"{program} took more than ten minutes");
        }
        return (process.ExitCode, output.Result, error.Result);
    }
}
