using System.Text.Json.Nodes;

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

    /// <summary>Without what is JSON where that would arrive as a text: front ends that prefer it would draw nothing.</summary>
    private static FormattedValue[] Values(MimeBundle bundle) =>
        [.. bundle.Data.Where(d => JupyterFront.SendsJson || d.Value is not JsonNode).Select(d => new FormattedValue(d.Key, MimeText.Of(d.Value)))];
}
