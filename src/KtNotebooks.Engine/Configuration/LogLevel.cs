namespace KtNotebooks.Configuration;

/// <summary>
/// The key log_level, in Hugging Face's words. Only debug changes anything: what is otherwise left unsaid, such as where every tensor of an adapter goes,
/// is then told.
/// </summary>
public static class LogLevel
{
    /// <summary>
    /// Hears lines of the level debug and writes them on standard error, for standard output belongs to answers and tables; null at every other level.
    /// </summary>
    public static Action<string>? Debug(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        return c.OneOf("log_level") == "debug" ? Console.Error.WriteLine : null;
    }
}
