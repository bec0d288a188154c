using KtNotebooks.Lora;
using KtNotebooks.Training;

namespace KtNotebooks.Server;

/// <summary>
/// Adapters that come and go while others are served. What may be loaded is what lies in the allowed folders: a request names one of those, and its text is
/// compared with their names, never used as a path.
/// </summary>
public sealed class AdapterDoor : IDisposable
{
    private readonly ModelEngine _engine;
    private readonly SemaphoreSlim _one = new(1, 1);

    internal AdapterDoor(ModelEngine engine) => _engine = engine;

    /// <summary>Hears a line for every tensor that is read, on the thread that reads it: for tests, which hold it up there.</summary>
    internal Action<string>? Reads { get; set; }

    /// <summary>Adapters that may be loaded, by the path under their folder.</summary>
    public IReadOnlyList<string> Loadable => [.. Known().Select(k => k.Name).Distinct()];

    public void Dispose() => _one.Dispose();

    /// <summary>Loads one, and serves it under a name.</summary>
    /// <param name="name">Of the model that it becomes.</param>
    /// <param name="path">One of <see cref="Loadable"/>, or its full path.</param>
    /// <exception cref="ApiException">Loading is off, the name is taken, there is no such adapter, or it does not fit the base.</exception>
    public async Task LoadAsync(string name, string path)
    {
        RequireAllowed();
        if (name.Length is 0 or > 128 || name.Any(c => !char.IsAsciiLetterOrDigit(c) && c is not ('_' or '-' or '.' or ':' or '/')))
            throw ApiException.Wrong("lora_name", "must have 1 to 128 letters, digits, _ - . : or /");
        var found = Known().FirstOrDefault(k => k.Name == path || k.Path == path).Path
            ?? throw new ApiException(404, $"there is no such adapter; lora_path is one of those in the allowed folders: {List(Loadable)}", "lora_path",
                "adapter_not_found");
        await _one.WaitAsync();
        try
        {
            if (_engine.Models.Any(m => m.Name == name) || name == Nn.Pass.BaseModel) throw new ApiException(400, $"'{name}' is served already", "lora_name",
                "name_taken");
            // Read on a thread of its own: the streams that run notice nothing but the moment when it is put beside the model.
            var (adapter, values) = await Task.Run(() => Read(found));
            using (adapter) await _engine.OnThread(() =>
            {
                adapter.Install(_engine.Model, name);
                return _engine.Serve(name, name, found, values);
            });
        }
        finally
        {
            _one.Release();
        }
    }

    /// <summary>Takes no more requests for one, and frees it when those that there are have been answered.</summary>
    /// <exception cref="ApiException">Loading is off, or there is no such adapter.</exception>
    public async Task UnloadAsync(string name, CancellationToken cancel = default)
    {
        RequireAllowed();
        await _one.WaitAsync(cancel);
        try
        {
            var model = _engine.Find(name, "lora_name");
            if (model.Adapter != name || model.Adapter == Nn.Pass.BaseModel) throw ApiException.Wrong("lora_name", $"'{name}' is no adapter");
            if (_engine.Models.FirstOrDefault(m => m != model && m.Adapter == name) is { } other)
                throw ApiException.Wrong("lora_name", $"'{other.Name}' is served by this adapter too");
            _engine.Withdraw(model);
            while (model.Active > 0) await Task.Delay(5, CancellationToken.None);
            await _engine.OnThread(() =>
            {
                NamedAdapters.Remove(_engine.Model, name);
                model.Values?.Dispose();
                return true;
            });
        }
        finally
        {
            _one.Release();
        }
    }

    /// <summary>The adapter, and the value head beside it where it is a reward model.</summary>
    private (LoadedAdapter Adapter, Nn.ValueHead? Values) Read(string path)
    {
        try
        {
            var values = RewardAdaptation.HeadOf(_engine.Model, path);
            try
            {
                return (AdapterFolder.Read(_engine.Model, path, Reads), values);
            }
            catch
            {
                values?.Dispose();
                throw;
            }
        }
        catch (Exception error) when (error is InvalidDataException or ArgumentException or NotSupportedException or IOException)
        {
            throw new ApiException(400, "the adapter does not fit this model, or its files are not whole; the server's log says which", "lora_path",
                "adapter_not_loadable")
            {
                Cause = error,
            };
        }
    }

    private void RequireAllowed()
    {
        if (_engine.Settings.AdapterFolders.Count == 0)
            throw new ApiException(403, "adapters are not loaded by request here; the key api_adapter_folders names the folders that may be loaded from", null,
                "not_allowed");
    }

    private IEnumerable<(string Name, string Path)> Known()
    {
        foreach (var root in _engine.Settings.AdapterFolders.Select(Path.GetFullPath).Where(Directory.Exists))
        {
            if (File.Exists(Path.Combine(root, "adapter_config.json"))) yield return (Path.GetFileName(root), root);
            foreach (var config in Directory.EnumerateFiles(root, "adapter_config.json", new EnumerationOptions
            {
                RecurseSubdirectories = true,
                MaxRecursionDepth = 3,
                IgnoreInaccessible = true,
                AttributesToSkip = FileAttributes.ReparsePoint, // a link may lead out
            }).Order(StringComparer.Ordinal))
                if (Path.GetDirectoryName(config) is { } folder && folder != root) yield return (Path.GetRelativePath(root, folder), folder);
        }
    }

    private static string List(IReadOnlyList<string> names) => names.Count == 0 ? "none" : string.Join(", ", names.Take(20)) + (names.Count > 20 ? ", …" : "");
}
