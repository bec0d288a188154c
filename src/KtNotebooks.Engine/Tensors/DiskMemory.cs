using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using KtNotebooks.Interop;

namespace KtNotebooks.Tensors;

/// <summary>
/// Memory whose home is a disk: stretches of files that are mapped to be read and written. The system brings pages when they are touched, keeps what it has
/// room for, and writes changed ones back when it needs the room for others, so a machine with much memory loses nothing by it. The room is taken on the
/// disk when a file is made, for a full disk met by a write to a page would end the process. The files have no name: a killed run leaves nothing.
/// </summary>
/// <param name="folder">On the disk; made where it is missing.</param>
public sealed partial class DiskMemory(string folder)
{
    /// <summary>Files are so long at first, and each twice as long as the one before, up to <see cref="Longest"/>.</summary>
    private const long Shortest = 64L << 20, Longest = 4L << 30;

    private readonly Lock _gate = new();
    private readonly List<Stretch> _stretches = [];
    private long _next = Shortest;

    public string Folder { get; } = Path.GetFullPath(folder);

    /// <summary>Bytes of its files.</summary>
    public long Length
    {
        get
        {
            lock (_gate) return _stretches.Sum(s => s.Length);
        }
    }

    /// <summary>The folder lies in memory after all, or null.</summary>
    public string? Doubt
    {
        get
        {
            var there = Folder; // or what it will be made in
            while (!Directory.Exists(there) && Path.GetDirectoryName(there) is { } above) there = above;
            return new DriveInfo(there).DriveFormat is "tmpfs" or "ramfs" ? $"offload_folder: {Folder} lies in memory (tmpfs), not on a disk" : null;
        }
    }

    /// <summary>A tensor there, zeros.</summary>
    /// <exception cref="IOException">The disk has no room for it.</exception>
    public Tensor Zeros(DType type, params ReadOnlySpan<long> shape)
    {
        long bytes = type.Size();
        foreach (var dim in shape) bytes = checked(bytes * dim);
        var (stretch, at, isClear) = Take(Math.Max(1, bytes));
        var tensor = new Tensor(new DiskBuffer(this, stretch, at, bytes), 0, type, shape);
        if (!isClear) Memory.Clear(tensor);
        return tensor;
    }

    internal void Give(Stretch stretch, nint at, long bytes)
    {
        lock (_gate)
        {
            stretch.Give(at, bytes);
            if (stretch.Users > 0) return;
            _stretches.Remove(stretch);
        }
        stretch.Dispose(); // what was changed and not written yet need not be written any more
    }

    private (Stretch Stretch, nint At, bool IsClear) Take(long bytes)
    {
        lock (_gate)
        {
            foreach (var stretch in _stretches)
                if (stretch.Take(bytes) is var (at, isClear) && at != 0) return (stretch, at, isClear);
            var fresh = new Stretch(Folder, Math.Max(_next, bytes));
            _next = Math.Min(Longest, 2 * _next);
            _stretches.Add(fresh);
            return (fresh, fresh.Take(bytes).At, true);
        }
    }

    /// <summary>One file, handed out piece by piece; a piece that comes back waits for one of its length.</summary>
    internal sealed unsafe partial class Stretch : IDisposable
    {
        private const int KeepSize = 0x01, ZeroRange = 0x10; // FALLOC_FL_…

        private readonly FileStream _file;
        private readonly MemoryMappedFile _map;
        private readonly MemoryMappedViewAccessor _view;
        private readonly byte* _start;
        private readonly Dictionary<long, Stack<(nint At, bool IsClear)>> _free = [];
        private long _taken;

        public Stretch(string folder, long bytes)
        {
            Length = KeptPages.RoundUp(bytes, Environment.SystemPageSize);
            _file = Open(folder, Length);
            _map = MemoryMappedFile.CreateFromFile(_file, null, Length, MemoryMappedFileAccess.ReadWrite, HandleInheritability.None, leaveOpen: false);
            _view = _map.CreateViewAccessor(0, Length, MemoryMappedFileAccess.ReadWrite);
            _view.SafeMemoryMappedViewHandle.AcquirePointer(ref _start);
            MappedBytes.Watch(_start, Length, $"kt: the disk of offload_folder, {folder}, did not give back what was written to it, or has no room left; the "
                + "same command goes on from the run's last checkpoint");
        }

        public long Length { get; }

        /// <summary>Pieces that are out.</summary>
        public int Users { get; private set; }

        /// <summary>A piece that begins on a page, and whether it reads as zeros; 0: there is none.</summary>
        public (nint At, bool IsClear) Take(long bytes)
        {
            var length = KeptPages.RoundUp(bytes, Environment.SystemPageSize);
            if (_free.TryGetValue(length, out var given) && given.TryPop(out var before))
            {
                Users++;
                return before;
            }
            if (_taken + length > Length) return (0, false);
            Users++;
            _taken += length;
            return ((nint)_start + (nint)(_taken - length), true); // a new file reads as zeros
        }

        public void Give(nint at, long bytes)
        {
            Users--;
            var length = KeptPages.RoundUp(bytes, Environment.SystemPageSize);
            if (!_free.TryGetValue(length, out var pieces)) _free[length] = pieces = new();
            pieces.Push((at, Forget(at - (nint)_start, length)));
        }

        /// <summary>
        /// What was written to a piece is nobody's any more: where the file system can say so, it need neither be written to the disk nor read from it again
        /// when the piece is written anew, and reads as zeros. The room stays taken.
        /// </summary>
        private bool Forget(long offset, long length)
        {
            if (!OperatingSystem.IsLinux()) return false;
            try
            {
                return fallocate((int)_file.SafeFileHandle.DangerousGetHandle(), KeepSize | ZeroRange, offset, length) == 0;
            }
            catch (EntryPointNotFoundException)
            {
                return false; // another C library than glibc
            }
        }

        public void Dispose()
        {
            MappedBytes.Leave(_start);
            _view.SafeMemoryMappedViewHandle.ReleasePointer();
            _view.Dispose();
            _map.Dispose();
            _file.Dispose();
        }

        [LibraryImport("libc")] private static partial int fallocate(int file, int mode, long offset, long length);

        private static FileStream Open(string folder, long bytes)
        {
            try
            {
                Directory.CreateDirectory(folder);
                var path = Path.Combine(folder, $".kt-{Environment.ProcessId}-{Guid.NewGuid():N}");
                var file = new FileStream(path, new FileStreamOptions
                {
                    Mode = FileMode.CreateNew,
                    Access = FileAccess.ReadWrite,
                    Options = FileOptions.DeleteOnClose,
                    PreallocationSize = bytes,
                });
                if (!OperatingSystem.IsWindows()) File.Delete(path);
                file.SetLength(bytes);
                return file;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                var free = Directory.Exists(folder) ? $"{ByteSize.Text(new DriveInfo(folder).AvailableFreeSpace)} are free there" : "the folder cannot be made";
                throw new IOException($"offload_folder: {folder}: a file of {ByteSize.Text(bytes)} for what expert_lora: disk keeps there cannot be made; "
                    + $"{free}. "
                    + "Give another offload_folder, a smaller lora_rank, or expert_lora: host", e);
            }
        }
    }
}
