using System.Collections;
using System.Reflection;
using System.Runtime.InteropServices;

using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;

namespace KtNotebooks.DotNetInteractive;

/// <summary>
/// Jupyter's stop button sends SIGINT. .NET Interactive's web host takes that for the wish to end the process, and all variables would go with it. Here the
/// signal cancels the running cell: its token, which training asks, and the cell itself.
/// </summary>
internal static class StopSignal
{
    private static PosixSignalRegistration? _ours;

    public static void CancelsCellsOf(Kernel root)
    {
        if (_ours is not null) return;
        _ours = PosixSignalRegistration.Create(PosixSignal.SIGINT, signal =>
        {
            signal.Cancel = true;
            _ = root.SendAsync(new Cancel());
        });
        RemoveOthers(_ours);
    }

    /// <summary>
    /// Every handler of a signal is called, and no handler can keep another one from acting; so the others are taken out of the runtime's own table. Where the
    /// table is another one, they stay, and the button ends the process as it did without us.
    /// </summary>
    private static void RemoveOthers(PosixSignalRegistration ours)
    {
        const BindingFlags Hidden = BindingFlags.NonPublic | BindingFlags.Static | BindingFlags.Instance;
        var token = typeof(PosixSignalRegistration).GetField("_token", Hidden)?.GetValue(ours);
        if (token is null || typeof(PosixSignalRegistration).GetField("s_registrations", Hidden)?.GetValue(null) is not IDictionary table) return;
        lock (table)
        {
            foreach (var handlers in table.Values.OfType<IList>().Where(l => l.Contains(token)).ToArray())
            {
                foreach (var other in handlers.Cast<object>().Where(h => h != token).ToArray()) handlers.Remove(other);
            }
        }
    }
}
