namespace KtNotebooks.Configuration;

/// <summary>What becomes of a key here.</summary>
public enum KeyEffect
{
    /// <summary>Does what it says.</summary>
    Acts,

    /// <summary>Accepted; said once, with the reason: there is nothing here that it could set.</summary>
    NoEffect,

    /// <summary>
    /// Asks for something that is not here or is spelled otherwise: refused, with what to write instead. Its default, null, false and 0 ask for nothing and
    /// are accepted.
    /// </summary>
    Refused,
}

/// <summary>The commands that read a key.</summary>
[Flags]
public enum KeyUse
{
    None = 0,
    Train = 1,
    Chat = 2,
    Predict = 4,
    Export = 8,
    Plan = 16,
    Pretrain = 32,

    /// <summary>Beside all that chat reads.</summary>
    Api = 64,

    /// <summary>Every command that runs a model.</summary>
    Model = Train | Chat | Predict | Plan,
}

/// <summary>One key of a configuration.</summary>
/// <param name="Name">As it stands in a file; a key in a block has the block's name and a dot before it.</param>
/// <param name="Kind">LLaMA-Factory's type: str, int, float, bool, list, dict, or a choice such as `a | b`.</param>
/// <param name="Default">What holds where the key is not given; null: nothing.</param>
/// <param name="Help">Acts: what it sets. NoEffect: why there is nothing to set. Refused: what to write instead.</param>
/// <param name="Effect">What becomes of it.</param>
/// <param name="Uses">Who reads it; none for a key that does not act.</param>
public sealed record Key(string Name, string Kind, string? Default, string Help, KeyEffect Effect, KeyUse Uses)
{
    /// <summary>The table that it stands in: model, data, method, training, generation, server, export, ktransformers, own.</summary>
    public string Group { get; init; } = "";

    /// <summary>LLaMA-Factory's default where ours is another one.</summary>
    public string? Theirs { get; init; }

    /// <summary>Values that others take and that are refused here, each with what to write instead.</summary>
    public IReadOnlyDictionary<string, string> Elsewhere { get; init; } = new Dictionary<string, string>();

    /// <summary>A value that asks for nothing, so that there is nothing to say about it.</summary>
    public bool AsksForNothing(string? value) =>
        value is null || value.Length == 0 || value == Default || value == Theirs
            || value.ToLowerInvariant() is "false" or "none" or "null" or "no" or "off" or "0" || SameNumber(value, Default);

    internal static Key Acts(string name, string kind, string? @default, KeyUse uses, string help, string? theirs = null) =>
        new(name, kind, @default, help, KeyEffect.Acts, uses) { Theirs = theirs };

    internal static Key NoEffect(string name, string kind, string? @default, string why) => new(name, kind, @default, why, KeyEffect.NoEffect, KeyUse.None);

    internal static Key Refused(string name, string kind, string? @default, string instead) =>
        new(name, kind, @default, instead, KeyEffect.Refused, KeyUse.None);

    /// <summary>The key with values that are refused: several names, apart by spaces, and what to write instead.</summary>
    internal Key But(params (string Values, string Instead)[] refused) => this with
    {
        Elsewhere = refused.SelectMany(r => r.Values.Split(' ').Select(value => (value, r.Instead))).ToDictionary(),
    };

    private static bool SameNumber(string value, string? other) => Settings.TryNumber(value, out var a) && Settings.TryNumber(other, out var b) && a == b;
}
