using System.Globalization;

using KtNotebooks.Interop;

namespace KtNotebooks.Files;

/// <summary>
/// One writer at a time in a folder: a lock file that the system lets go of when its holder ends, with host, process and work in it for whoever comes
/// second. What a run that died left half-written is removed when the lock is taken. A file that another host left is not taken over: not every
/// network disk carries locks from one host to the other.
/// </summary>
public sealed class FolderLock : IDisposable
{
    private const string FileName = ".kt-lock";
    private readonly string _path;
    private readonly FileStream _file;
    private string? _made;

    private FolderLock(string path, FileStream file) => (_path, _file) = (path, file);

    /// <summary>For work inside a folder, which is made if it is not there; if nothing comes into it, it goes with the lock.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="work">What is done, for others: "a training run".</param>
    /// <param name="key">The key that names the folder.</param>
    /// <exception cref="IOException">Somebody else works there.</exception>
    public static FolderLock Inside(string folder, string work, string key)
    {
        var isThere = Directory.Exists(folder);
        Folders.Create(folder, key);
        var held = Take(Path.Combine(folder, FileName), folder, work, key);
        if (!isThere) held._made = folder;
        OwnTemporary.Sweep(folder);
        return held;
    }

    /// <summary>For a folder that appears when it is whole: the lock file lies beside it.</summary>
    /// <inheritdoc cref="Inside"/>
    public static FolderLock Beside(string folder, string work, string key)
    {
        var full = Path.GetFullPath(folder).TrimEnd(Path.DirectorySeparatorChar);
        var parent = Path.GetDirectoryName(full) ?? throw new ArgumentException($"{key} '{folder}' is the root of the disk; name a folder below it");
        Folders.Create(parent, key);
        var held = Take(Path.Combine(parent, $".{Path.GetFileName(full)}{FileName}"), folder, work, key);
        OwnTemporary.SweepBeside(full);
        return held;
    }

    /// <summary>Says early, before long work, that somebody else works in a folder, or that it cannot be written into; takes nothing.</summary>
    /// <inheritdoc cref="Inside"/>
    public static void RequireFree(string folder, string key)
    {
        Folders.RequireWritable(folder, key);
        var path = Path.Combine(folder, FileName);
        if (File.Exists(path) && LockedFile.IsTaken(path)) throw InUse(path, folder, key);
    }

    public void Dispose()
    {
        if (!_file.CanRead) return;
        File.Delete(_path); // before the lock is free: who takes it looks whether the file is still the one in the folder
        _file.Dispose();
        if (_made is null || !Directory.Exists(_made) || Directory.EnumerateFileSystemEntries(_made).Any()) return;
        try
        {
            Directory.Delete(_made);
        }
        catch (IOException)
        {
            // Somebody has begun to work there since.
        }
    }

    private static FolderLock Take(string path, string folder, string work, string key)
    {
        while (true)
        {
            FileStream? file;
            try
            {
                file = LockedFile.TryTake(path);
            }
            catch (IOException error)
            {
                throw new IOException($"{key} {folder}: cannot be written into: {error.Message}");
            }
            if (file is null) throw InUse(path, folder, key);
            try
            {
                if (Holder.Read(file) is { } left) RequireGone(left, path, folder, key);
                var own = Holder.Self(work);
                own.Write(file);
                if (LockedFile.Read(path) == own.ToString()) return new FolderLock(path, file);
                file.Dispose(); // its holder had removed it before we got the lock
            }
            catch (Exception error)
            {
                file.Dispose();
                if (error is IOException and not HeldException) throw new IOException($"{key} {folder}: cannot be written into: {Folders.Cause(error)}");
                throw;
            }
        }
    }

    private static void RequireGone(Holder left, string path, string folder, string key)
    {
        if (left.Host != Environment.MachineName)
            throw new HeldException($"{key} {folder}: {left.Name} began to work there and has not said that it ended; when it is gone, remove {path}, or "
                + $"give another {key}");
        if (left.IsAlive) throw InUse(path, folder, key); // on a disk without locks
    }

    private static HeldException InUse(string path, string folder, string key) =>
        new($"{key} {folder}: {Holder.Parse(LockedFile.Read(path))?.Name ?? "another run"} works there; wait until it ends, or give another {key}");

    private sealed class HeldException(string message) : IOException(message);

    /// <summary>The lines of a lock file.</summary>
    private sealed record Holder(string Host, int Process, string Started, string Work, string Mark)
    {
        public string Name => $"{Work} (process {Process} on {Host}, since {Started})";

        /// <summary>On this host. A number that another process got since then has another start.</summary>
        public bool IsAlive
        {
            get
            {
                try
                {
                    using var process = System.Diagnostics.Process.GetProcessById(Process);
                    return Process != Environment.ProcessId && StartOf(process) == Started;
                }
                catch (Exception error) when (error is ArgumentException or InvalidOperationException or System.ComponentModel.Win32Exception)
                {
                    return false;
                }
            }
        }

        public static Holder Self(string work)
        {
            using var self = System.Diagnostics.Process.GetCurrentProcess();
            return new Holder(Environment.MachineName, Environment.ProcessId, StartOf(self), work, Guid.NewGuid().ToString("N"));
        }

        public static Holder? Read(FileStream file)
        {
            file.Position = 0;
            var bytes = new byte[Math.Min(file.Length, 4096)];
            file.ReadExactly(bytes);
            return Parse(System.Text.Encoding.UTF8.GetString(bytes));
        }

        public static Holder? Parse(string? text) => text?.Split('\n') is [var host, var process, var started, var work, var mark, ..]
            && int.TryParse(process, out var id) ? new Holder(host, id, started, work, mark) : null;

        public void Write(FileStream file)
        {
            file.SetLength(0);
            file.Position = 0;
            file.Write(System.Text.Encoding.UTF8.GetBytes(ToString()));
            file.Flush();
        }

        public override string ToString() => $"{Host}\n{Process}\n{Started}\n{Work}\n{Mark}\n";

        private static string StartOf(System.Diagnostics.Process process) => process.StartTime.ToString("yyyy-MM-dd HH:mm:ss", CultureInfo.InvariantCulture);
    }
}
