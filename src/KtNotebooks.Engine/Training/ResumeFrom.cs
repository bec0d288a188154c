namespace KtNotebooks.Training;

/// <summary>What resume_from_checkpoint says.</summary>
public sealed record ResumeFrom
{
    private ResumeFrom()
    {
    }

    /// <summary>null: a run that is not finished goes on from its newest checkpoint; a finished one is not touched.</summary>
    public static ResumeFrom Auto { get; } = new();

    /// <summary>false: never go on; output_dir must hold no run.</summary>
    public static ResumeFrom Never { get; } = new();

    /// <summary>true: there must be a checkpoint, and the newest is it. The run may be longer than the one that wrote it.</summary>
    public static ResumeFrom Newest { get; } = new();

    /// <summary>A checkpoint's folder; null for the others.</summary>
    public string? Folder { get; private init; }

    /// <summary>Somebody asked for it: more steps than before are no mistake.</summary>
    public bool IsExplicit => this == Newest || Folder is not null;

    /// <summary>A path: that checkpoint.</summary>
    public static ResumeFrom Checkpoint(string folder) => new() { Folder = folder };

    /// <summary>The key's value as it stands in a config.</summary>
    public static ResumeFrom Parse(string? value) => value?.Trim().ToLowerInvariant() switch
    {
        null or "" or "null" or "~" => Auto,
        "false" or "no" or "off" => Never,
        "true" or "yes" or "on" => Newest,
        _ => Checkpoint(value!.Trim()),
    };

    // Three of them differ in nothing but which they are.
    public bool Equals(ResumeFrom? other) => ReferenceEquals(this, other) || (Folder is not null && Folder == other?.Folder);

    public override int GetHashCode() => Folder?.GetHashCode(StringComparison.Ordinal) ?? System.Runtime.CompilerServices.RuntimeHelpers.GetHashCode(this);
}
