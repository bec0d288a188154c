using System.Diagnostics;

using Xunit;

namespace KtNotebooks.Tests.Files;

/// <summary>A file system of a few megabytes in memory, for tests of full disks. Skips the test where mounting is not allowed.</summary>
internal sealed class SmallDisk : IDisposable
{
    public SmallDisk(int megabytes)
    {
        Path = Directory.CreateTempSubdirectory("kt-disk-").FullName;
        if (Run("mount", "-t", "tmpfs", "-o", $"size={megabytes}m", "tmpfs", Path) == 0) return;
        Directory.Delete(Path);
        Assert.Skip("mounting a small tmpfs needs root");
    }

    public string Path { get; }

    public void Dispose()
    {
        Run("umount", "--lazy", Path);
        Directory.Delete(Path);
    }

    private static int Run(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true })!;
            process.WaitForExit();
            return process.ExitCode;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return -1; // no such program
        }
    }
}
