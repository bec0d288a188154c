using System.Diagnostics;
using System.Reflection;

using KtNotebooks.Files;
using KtNotebooks.Interactive;

namespace KtNotebooks.Cli;

/// <summary>The NuGet packages of this checkout, and the tools that come from NuGet.</summary>
internal static class Packages
{
    private const string Tool = "Microsoft.dotnet-interactive", ToolVersion = "1.0.712001";

    /// <summary>Packs every project that others may use into a folder, which NuGet takes as a feed.</summary>
    /// <returns>The packages.</returns>
    public static IReadOnlyList<string> Pack(string folder, CancellationToken cancel)
    {
        Folders.Create(folder, "--out");
        Folders.RequireWritable(folder, "--out");
        var version = typeof(Packages).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion.Split('+')[0];
        string[] native = HasCompiler() ? [] : ["-p:KtSkipNative=true"];
        DotNet(["pack", Repository.Path("KtNotebooks.sln"), "--configuration", "Release", "--output", folder, "-v:q", "--nologo", .. native], cancel);
        var packages = Directory.GetFiles(folder, $"KtNotebooks*.{version}.nupkg").Order(StringComparer.Ordinal).ToArray();
        foreach (var package in packages) Forget(Path.GetFileName(package)[..^$".{version}.nupkg".Length], version);
        return packages;
    }

    /// <summary>Installs .NET Interactive into a folder, where it is not there yet.</summary>
    /// <returns>Its program.</returns>
    public static string InstallDotNetInteractive(string folder, CancellationToken cancel)
    {
        var program = Path.Combine(folder, OperatingSystem.IsWindows() ? "dotnet-interactive.exe" : "dotnet-interactive");
        if (!File.Exists(program)) DotNet(["tool", "install", Tool, "--version", ToolVersion, "--tool-path", folder], cancel);
        return program;
    }

    /// <summary>NuGet keeps what it has once unpacked, also when the package of the same version is made anew.</summary>
    private static void Forget(string name, string version)
    {
        var cache = Environment.GetEnvironmentVariable("NUGET_PACKAGES") is { Length: > 0 } given ? given
            : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
        var unpacked = Path.Combine(cache, name.ToLowerInvariant(), version);
        if (Directory.Exists(unpacked)) Directory.Delete(unpacked, recursive: true);
    }

    private static bool HasCompiler() =>
        (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Any(folder => File.Exists(Path.Combine(folder, "g++")));

    private static void DotNet(IReadOnlyList<string> arguments, CancellationToken cancel)
    {
        var start = new ProcessStartInfo("dotnet", arguments) { RedirectStandardOutput = true, RedirectStandardError = true };
        // Set by a running dotnet for its own children, and wrong for another SDK's.
        foreach (var variable in (string[])["MSBUILD_EXE_PATH", "MSBuildSDKsPath", "MSBuildExtensionsPath"]) start.Environment.Remove(variable);
        start.Environment["DOTNET_CLI_TELEMETRY_OPTOUT"] = start.Environment["DOTNET_NOLOGO"] = "1";
        start.Environment["MSBUILDDISABLENODEREUSE"] = "1"; // its servers would outlive us
        using var process = Start(start);
        using var stop = cancel.Register(() => process.Kill(entireProcessTree: true));
        var errors = process.StandardError.ReadToEndAsync(CancellationToken.None);
        var said = process.StandardOutput.ReadToEnd() + errors.Result;
        process.WaitForExit();
        cancel.ThrowIfCancellationRequested();
        if (process.ExitCode == 0) return;
        var lines = said.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        throw new InvalidOperationException($"dotnet {string.Join(' ', arguments.Take(3))} failed: "
            + (lines.FirstOrDefault(l => l.Contains("error", StringComparison.Ordinal)) ?? lines.LastOrDefault() ?? "it said nothing"));
    }

    private static Process Start(ProcessStartInfo start)
    {
        try
        {
            return Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            throw new InvalidOperationException("`dotnet` is not on the PATH; this needs the .NET SDK 10: https://dotnet.microsoft.com/download/dotnet/10.0");
        }
    }
}
