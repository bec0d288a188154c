namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Finds the driver, NVRTC, cuBLASLt and NCCL at run time; nothing of CUDA is needed to build. Looked at in this order: CUDA_HOME, CUDA_PATH, /usr/local/cuda,
/// the pip wheels (site-packages/nvidia/*/lib) of VIRTUAL_ENV and of every Python on the PATH, the loader's own path. Major versions 13 and 12, never newer
/// than the driver; of NCCL version 2.
/// </summary>
internal static class CudaLibraries
{
    public const string Driver = "kt-driver";
    public const string Nvrtc = "kt-nvrtc";
    public const string CublasLt = "kt-cublasLt";
    public const string Nccl = "kt-nccl";

    internal const string Advice = "Install it, or set CUDA_HOME to the folder of a CUDA toolkit";

    /// <summary>Loads one library so that its imports resolve; keeps it for the life of the process.</summary>
    /// <param name="name">One of the constants of this class.</param>
    /// <param name="driverMajor">The newest major version that the driver can run; 0 for the driver itself, and for NCCL, which has its own.</param>
    /// <exception cref="FileNotFoundException">Not found; the text lists every path tried.</exception>
    public static void Load(string name, int driverMajor = 0) => NativeLibraries.Load(name,
        name switch { Driver => "the NVIDIA driver", Nccl => "NCCL", _ => Stem(name) },
        () => name switch { Driver => DriverPaths(), Nccl => Everywhere("libnccl.so.2"), _ => Versioned(Stem(name), driverMajor) },
        name == Nccl ? "Install it (Debian: libnccl2; pip: nvidia-nccl-cu12), or set CUDA_HOME to a folder with lib64/libnccl.so.2" : Advice);

    /// <summary>Every place of a library, newest usable major version first.</summary>
    internal static IEnumerable<string> Versioned(string stem, int driverMajor)
    {
        var majors = ((int[])[13, 12]).Where(m => m <= driverMajor).ToArray();
        if (majors.Length == 0)
            throw new NotSupportedException($"the NVIDIA driver is for CUDA {driverMajor}; this program needs a driver for CUDA 12 or newer");
        var folders = Folders().Where(Directory.Exists).ToArray();
        foreach (var major in majors)
        {
            foreach (var folder in folders) yield return Path.Combine(folder, $"lib{stem}.so.{major}");
            yield return $"lib{stem}.so.{major}";
        }
    }

    private static string Stem(string name) => name == Nvrtc ? "nvrtc" : "cublasLt";

    private static IEnumerable<string> Everywhere(string file) => Folders().Where(Directory.Exists).Select(folder => Path.Combine(folder, file)).Append(file);

    private static IEnumerable<string> DriverPaths() =>
    [
        "libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1",
        "/usr/lib/wsl/lib/libcuda.so.1",
    ];

    private static IEnumerable<string> Folders()
    {
        foreach (var root in (string?[])[Environment.GetEnvironmentVariable("CUDA_HOME"), Environment.GetEnvironmentVariable("CUDA_PATH"), "/usr/local/cuda"])
        {
            if (string.IsNullOrEmpty(root)) continue;
            foreach (var part in (string[])["lib64", "targets/x86_64-linux/lib", "lib"]) yield return Path.Combine(root, part);
        }
        foreach (var packages in PythonPackages())
            foreach (var folder in Subfolders(Path.Combine(packages, "nvidia"), "*")) yield return Path.Combine(folder, "lib");
    }

    private static IEnumerable<string> PythonPackages()
    {
        var roots = new List<string?> { Environment.GetEnvironmentVariable("VIRTUAL_ENV") };
        foreach (var bin in (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries))
            if (File.Exists(Path.Combine(bin, "python3"))) roots.Add(Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(bin)));
        roots.Add(Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".local"));
        foreach (var root in roots)
        {
            if (string.IsNullOrEmpty(root)) continue;
            foreach (var python in Subfolders(Path.Combine(root, "lib"), "python3*"))
                foreach (var packages in Subfolders(python, "*-packages")) yield return packages;
        }
    }

    private static string[] Subfolders(string folder, string pattern) => Directory.Exists(folder)
        ? [.. Directory.GetDirectories(folder, pattern).OrderDescending(StringComparer.Ordinal)] : [];
}
