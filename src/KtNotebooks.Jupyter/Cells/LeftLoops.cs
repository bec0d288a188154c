namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// The loops that an interrupted cell has left on other threads. They end at their next poll (LoopPolls), but on a busy machine a thread may not be
/// given a core for tenths of a second, and tasks that still stand in the pool's queue have not begun: the flag has to stay up until they came to it.
/// </summary>
internal static class LeftLoops
{
    private const int LimitMilliseconds = 2000, LookMilliseconds = 10;

    /// <summary>Returns when nothing stands in the pool's queue and no thread wants a core in two looks; after two seconds in any case.</summary>
    internal static void WaitForEnd()
    {
        for (int quiet = 0, waited = 0; quiet < 2 && waited < LimitMilliseconds; waited += LookMilliseconds)
        {
            Thread.Sleep(LookMilliseconds);
            quiet = ThreadPool.PendingWorkItemCount == 0 && !AnyRunnable() ? quiet + 1 : 0;
        }
    }

    /// <returns>Whether a thread that can hold a cell's loop runs or waits for a core. Where there is no /proc: true, and the limit decides.</returns>
    private static bool AnyRunnable()
    {
        if (!OperatingSystem.IsLinux()) return true;
        foreach (var thread in Directory.EnumerateDirectories("/proc/self/task"))
        {
            try
            {
                if (IsRunnable(File.ReadAllText(thread + "/stat"))) return true;
            }
            catch (IOException)
            {
                // It has ended since the folder was listed.
            }
        }
        return false;
    }

    /// <param name="stat">"ID (NAME) STATE …"; the runtime's own threads have names of the form ".NET …", of which only the pool's run a cell's code.</param>
    private static bool IsRunnable(string stat)
    {
        var name = stat.AsSpan(stat.IndexOf('(', StringComparison.Ordinal) + 1);
        var state = stat.AsSpan(stat.LastIndexOf(')') + 2, 1);
        var own = name.StartsWith(".NET") && !name.StartsWith(".NET TP Worker") && !name.StartsWith(".NET Long");
        return state is "R" && !own && !name.StartsWith(Name);
    }

    /// <summary>What the looking thread is called: it runs while it looks. The system keeps 15 characters.</summary>
    internal const string Name = "interrupt";
}
