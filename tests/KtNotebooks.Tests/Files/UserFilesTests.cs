using System.Diagnostics;

using KtNotebooks.Files;

using Xunit;

namespace KtNotebooks.Tests.Files;

/// <summary>What people and downloaded files name: paths, patterns, JSON.</summary>
public sealed class UserFilesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("kt-user-files").FullName;

    [Fact]
    public void Links_are_followed_and_pipes_devices_and_folders_are_refused_at_once()
    {
        var file = Path.Combine(_folder, "blob");
        File.WriteAllText(file, "text");
        var link = Path.Combine(_folder, "link");
        File.CreateSymbolicLink(link, "blob");
        Assert.Equal("text", RegularFile.ReadAllText(link));

        var pipe = Path.Combine(_folder, "pipe");
        using (var made = Process.Start("mkfifo", pipe)) made.WaitForExit();
        Assert.Contains("a pipe, a device or a socket", Assert.Throws<InvalidDataException>(() => RegularFile.Open(pipe)).Message);
        Assert.Contains("a pipe, a device or a socket", Assert.Throws<InvalidDataException>(() => RegularFile.ReadAllBytes("/dev/zero")).Message);
        Assert.Contains("is a folder, but a config is wanted", Assert.Throws<InvalidDataException>(() => RegularFile.Open(_folder, "a config")).Message);
        var dangling = Path.Combine(_folder, "dangling");
        File.CreateSymbolicLink(dangling, "gone");
        Assert.Contains("a link to gone, which is not there", Assert.Throws<FileNotFoundException>(() => RegularFile.Open(dangling)).Message);
    }

    [Theory]
    [InlineData("../evil")]
    [InlineData("a/../../evil")]
    [InlineData("/etc/passwd")]
    [InlineData("a\\..\\b")]
    [InlineData("")]
    public void A_name_from_a_file_stays_in_its_folder(string name) =>
        Assert.StartsWith("index.json: ", Assert.Throws<InvalidDataException>(() => InnerPath.Of(_folder, name, "index.json")).Message);

    [Fact]
    public void Names_below_a_folder_are_joined() => Assert.Equal(Path.Combine(_folder, "a/b..c"), InnerPath.Of(_folder, "a/b..c", "index.json"));

    [Fact]
    public void A_pattern_takes_bounded_time()
    {
        var evil = new UserPattern("a*a*a*a*a*a*a*a*b", "rules.yaml:3");
        Assert.False(evil.IsMatch(new string('a', 5000)));
        var look = new UserPattern(@"^(?!x)(a*)*(a*)*(a*)*$", "rules.yaml:3");
        Assert.Contains("rules.yaml:3: the pattern", Assert.Throws<InvalidDataException>(() => look.IsMatch(new string('a', 60) + "b")).Message);
    }

    [Theory]
    [InlineData("q_proj", "model.layers.0.self_attn.q_proj", true)]
    [InlineData("proj", "model.layers.0.self_attn.q_proj", false)] // an end after a dot, not any end
    [InlineData("q_proj", "model.layers.0.self_attn.q_proj.x", false)]
    [InlineData("^q_proj", "model.q_proj", false)]
    [InlineData("^model.q_proj", "model.q_proj", true)]
    [InlineData("q|v", "a.v", true)]
    public void A_module_s_pattern_matches_the_path_or_its_end_after_a_dot(string pattern, string path, bool matches) =>
        Assert.Equal(matches, UserPattern.OfModule(pattern, "x").IsMatch(path));

    [Fact]
    public void Brackets_that_the_rule_would_close_are_refused() =>
        Assert.StartsWith("x: not a regular expression: ", Assert.Throws<InvalidDataException>(() => UserPattern.OfModule("a)(b", "x")).Message,
            StringComparison.Ordinal);

    [Fact]
    public void Look_around_of_KTransformers_rules_works()
    {
        var pattern = new UserPattern(@"^model\.layers\.(?!.*self_attn\.kv_b_proj).*$", "rules.yaml:1");
        Assert.True(pattern.IsMatch("model.layers.0.mlp.gate"));
        Assert.False(pattern.IsMatch("model.layers.0.self_attn.kv_b_proj"));
    }

    [Theory]
    [InlineData("a)(b", "insufficient opening parentheses at character 2")]
    [InlineData("a{5,2}", "reversed quantifier range at character 6")]
    [InlineData("[", "unterminated bracket at character 1")]
    public void What_is_no_pattern_is_named_with_its_place(string pattern, string what) =>
        Assert.Equal($"rules.yaml:7: not a regular expression: {what} of '{pattern}'",
            Assert.Throws<InvalidDataException>(() => new UserPattern(pattern, "rules.yaml:7", whole: true)).Message);

    [Fact]
    public void Deep_brackets_and_long_patterns_are_refused()
    {
        Assert.Contains("deep in each other",
            Assert.Throws<InvalidDataException>(() => new UserPattern(new string('(', 5000) + new string(')', 5000), "x")).Message);
        Assert.Contains("characters", Assert.Throws<InvalidDataException>(() => new UserPattern(new string('a', 1_000_000), "x")).Message);
    }

    [Fact]
    public void JSON_errors_name_file_and_line()
    {
        var path = Path.Combine(_folder, "config.json");
        File.WriteAllText(path, "{\n \"a\": 1,\n \"b\" 2\n}");
        Assert.StartsWith($"{path}:3: not valid JSON: ", Assert.Throws<InvalidDataException>(() => JsonSource.Read(path, "a config")).Message);
        File.WriteAllText(path, "[1]");
        Assert.Equal($"{path}: must be a JSON object, but is a list", Assert.Throws<InvalidDataException>(() => JsonSource.Read(path, "a config")).Message);
        File.WriteAllText(path, new string('[', 100_000));
        Assert.Contains("not valid JSON", Assert.Throws<InvalidDataException>(() => JsonSource.Read(path, "a config")).Message);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);
}
