using KtNotebooks.Interactive;

using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;

namespace KtNotebooks.DotNetInteractive;

/// <summary>Shows what library code (charts, progress) draws in the cell that it was called from.</summary>
public sealed class InteractiveDisplay : IDisplayHost
{
    public void Show(MimeBundle bundle, string? displayId)
    {
        if (KernelInvocationContext.Current is { } context) context.Publish(new DisplayedValueProduced(bundle, context.Command, Values(bundle), displayId));
    }

    public void Update(MimeBundle bundle, string displayId)
    {
        if (KernelInvocationContext.Current is { } context) context.Publish(new DisplayedValueUpdated(bundle, displayId, context.Command, Values(bundle)));
    }

    private static FormattedValue[] Values(MimeBundle bundle) => [.. bundle.Data.Select(d => new FormattedValue(d.Key, MimeText.Of(d.Value)))];
}
