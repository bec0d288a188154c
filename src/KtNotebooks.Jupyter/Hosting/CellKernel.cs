using KtNotebooks.Jupyter.Cells;

using Microsoft.DotNet.Interactive;
using Microsoft.DotNet.Interactive.Commands;
using Microsoft.DotNet.Interactive.Events;
using Microsoft.DotNet.Interactive.Formatting;
using Microsoft.DotNet.Interactive.ValueSharing;

namespace KtNotebooks.Jupyter.Hosting;

/// <summary>
/// Our session as a kernel of .NET Interactive's, so that what is written for those works in it: Kernel.Root, SendAsync, extensions, sharing of values.
/// Cells themselves do not come this way: they are run whole, on their thread, where they can be stopped.
/// </summary>
internal sealed class CellKernel : Kernel, IKernelCommandHandler<SubmitCode>, IKernelCommandHandler<RequestValue>, IKernelCommandHandler<RequestValueInfos>,
    IKernelCommandHandler<SendValue>
{
    private readonly CSharpSession _session;

    internal CellKernel(CSharpSession session) : base("csharp")
    {
        _session = session;
        (KernelInfo.LanguageName, KernelInfo.LanguageVersion, KernelInfo.DisplayName) = ("C#", "14.0", "csharp - C# Script");
        Composite = [];
        Composite.Add(this, ["c#", "C#"]);
        Composite.Add(new KeyValueStoreKernel());
        Composite.DefaultKernelName = Name;
        Composite.RegisterCommandHandler<RequestInput>((command, context) =>
        {
            context.Publish(new InputProduced(CellApi.Ask(command.Prompt, command.IsPassword), command));
            return Task.CompletedTask;
        });
        RegisterForDisposal(Composite);
    }

    /// <summary>What cells see as Kernel.Root: this kernel, the store of raw values, and those that extensions add.</summary>
    internal CompositeKernel Composite { get; }

    /// <summary>From now on this kernel is Kernel.Current.</summary>
    internal void Handle(KernelCommand command, KernelInvocationContext context) => SetHandlingKernel(command, context);

    /// <summary>Code that a running cell has sent: it sees what the cell has declared so far.</summary>
    async Task IKernelCommandHandler<SubmitCode>.HandleAsync(SubmitCode command, KernelInvocationContext context)
    {
        try
        {
            var (value, has) = await _session.RunNested(command.Code);
            if (has) context.Publish(new ReturnValueProduced(value, command, FormattedValue.CreateManyFromObject(value)));
        }
        catch (Exception e)
        {
            context.Fail(command, e, CellErrors.Brief(e));
        }
    }

    Task IKernelCommandHandler<RequestValue>.HandleAsync(RequestValue command, KernelInvocationContext context)
    {
        if (!_session.Variables.TryGet(command.Name, out var value)) context.Fail(command, null, $"Value '{command.Name}' not found in kernel {Name}");
        else context.Publish(new ValueProduced(value, command.Name, new FormattedValue(command.MimeType, value.ToDisplayString(command.MimeType)), command));
        return Task.CompletedTask;
    }

    Task IKernelCommandHandler<RequestValueInfos>.HandleAsync(RequestValueInfos command, KernelInvocationContext context)
    {
        var infos = _session.Variables.All.Select(v =>
            new KernelValueInfo(v.Name, FormattedValue.CreateSingleFromObject(v.Value, command.MimeType), v.Type)).ToArray();
        context.Publish(new ValueInfosProduced(infos, command));
        return Task.CompletedTask;
    }

    Task IKernelCommandHandler<SendValue>.HandleAsync(SendValue command, KernelInvocationContext context) =>
        SetValueAsync(command, context, (name, value, type) => _session.Declare(name, value, type));
}
