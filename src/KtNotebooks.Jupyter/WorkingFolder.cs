namespace KtNotebooks.Jupyter;

/// <summary>The process's current folder, which somebody may have deleted.</summary>
internal static class WorkingFolder
{
    internal const string Gone =
        "[kernel] the working folder is no longer there; paths without a leading / lead nowhere until Directory.SetCurrentDirectory(…) names another\n";

    /// <summary>Null where it is gone.</summary>
    internal static string? Path
    {
        get
        {
            try
            {
                var path = Environment.CurrentDirectory;
                return Directory.Exists(path) ? path : null;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return null;
            }
        }
    }
}
