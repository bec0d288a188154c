using KtNotebooks.Files;

using Microsoft.Win32.SafeHandles;

namespace KtNotebooks.Weights;

/// <summary>
/// A safetensors file being filled from several threads. It has its full length from the start (so a full disk is known before the work), a temporary name
/// until <see cref="Complete"/>, and is removed if that is never called.
/// </summary>
public sealed class ShardFile : IDisposable
{
    private readonly string _path;
    private readonly SafetensorsPlan _plan;
    private readonly string _temporary;
    private readonly SafeFileHandle _handle;

    /// <exception cref="IOException">Not enough disk: said before a byte is written.</exception>
    public ShardFile(string path, SafetensorsPlan plan)
    {
        ArgumentNullException.ThrowIfNull(plan);
        (_path, _plan) = (path, plan);
        _temporary = OwnTemporary.In(Path.GetDirectoryName(Path.GetFullPath(path))!);
        AtomicFile.RequireSpace(path, plan.FileBytes);
        _handle = File.OpenHandle(_temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, FileOptions.None, plan.FileBytes);
        RandomAccess.Write(_handle, plan.Header.Span, 0);
    }

    /// <summary>Writes bytes of a tensor, from <paramref name="offset"/> in it.</summary>
    public void Write(string tensor, long offset, ReadOnlySpan<byte> bytes) => RandomAccess.Write(_handle, bytes, _plan.At(tensor) + offset);

    /// <summary>All is written: flushes and gives the file its name.</summary>
    public void Complete()
    {
        RandomAccess.FlushToDisk(_handle);
        _handle.Dispose();
        File.Move(_temporary, _path, overwrite: true);
    }

    public void Dispose()
    {
        if (_handle.IsClosed) return;
        _handle.Dispose();
        File.Delete(_temporary);
    }
}
