using System.Reflection;
using System.Runtime.InteropServices;

namespace KtNotebooks.Interop;

/// <summary>
/// Libraries that are looked for when they are first needed, and not when the program starts: CUDA's, NCCL, MPI. Each has a name of ours in its imports, which
/// resolves to what was found.
/// </summary>
internal static class NativeLibraries
{
    private static readonly Lock Gate = new();
    private static readonly Dictionary<string, nint> Loaded = [];
    private static readonly Dictionary<string, string> Paths = [];
    private static bool _registered;

    /// <summary>What has been loaded, by its name, from where; a bare file name came from the loader's path.</summary>
    public static IReadOnlyDictionary<string, string> LoadedPaths
    {
        get
        {
            lock (Gate) return new Dictionary<string, string>(Paths);
        }
    }

    /// <summary>Loads one library so that its imports resolve; keeps it for the life of the process.</summary>
    /// <param name="name">Of its imports.</param>
    /// <param name="what">For people.</param>
    /// <param name="paths">Where to look, asked when it is not there yet.</param>
    /// <param name="advice">What to do when it is nowhere.</param>
    /// <returns>The library's handle.</returns>
    /// <exception cref="FileNotFoundException">Not found; the text lists every path tried.</exception>
    public static nint Load(string name, string what, Func<IEnumerable<string>> paths, string advice)
    {
        lock (Gate)
        {
            if (Loaded.TryGetValue(name, out var known)) return known;
            var handle = Loaded[name] = Open(what, paths(), advice, out var path);
            Paths[name.Replace("kt-", "", StringComparison.Ordinal)] = path;
            if (_registered) return handle;
            NativeLibrary.SetDllImportResolver(typeof(NativeLibraries).Assembly, Resolve);
            _registered = true;
            return handle;
        }
    }

    /// <summary>The first path that loads. A bare file name asks the loader.</summary>
    internal static nint Open(string what, IEnumerable<string> paths, string advice, out string path)
    {
        var tried = new List<string>();
        foreach (var candidate in paths.Distinct())
        {
            if (Path.IsPathRooted(candidate) && !File.Exists(candidate))
            {
                tried.Add(candidate);
                continue;
            }
            path = candidate;
            if (NativeLibrary.TryLoad(candidate, out var handle)) return handle;
            tried.Add(Path.IsPathRooted(candidate) ? $"{candidate} (there, but does not load)" : $"{candidate} (the loader's path)");
        }
        throw new FileNotFoundException($"{what} was not found; tried {string.Join(", ", tried)}. {advice}");
    }

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? search)
    {
        lock (Gate) return Loaded.GetValueOrDefault(name); // 0: not ours, the default search goes on
    }
}
