using FsCheck;
using FsCheck.Fluent;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Tests.Tokenizers;

/// <summary>Tokenizers and texts that several tests use.</summary>
internal static class Samples
{
    /// <summary>A small trained tokenizer with DeepSeek's special tokens.</summary>
    public static Tokenizer Small { get; } = BpeTrainer.Train(Corpus, 512,
        ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"]);

    public static IEnumerable<string> Corpus
    {
        get
        {
            for (var i = 0; i < 20; i++)
            {
                yield return $"主人，今天天气真好喵~ 我们一起去第{i}个公园玩吧！";
                yield return $"User: What is the weather like on day {i}?\n\nAssistant: The weather is fine, and the cat is happy.";
            }
        }
    }

    /// <summary>Any valid text: characters of all planes, with whitespace, digits, marks and Han made likely, since that is what patterns look at.</summary>
    public static Arbitrary<string> ValidText { get; } = Gen.Frequency(
            (3, Gen.Choose(0, 0x10FFFF)), (3, Gen.Choose(0x20, 0x7E)), (1, Gen.Choose(0x300, 0x345)), (2, Gen.Choose(0x4E00, 0x4E80)),
            (1, Gen.Choose(0x1F600, 0x1F64F)),
            (2, Gen.Elements((int)' ', '\n', '\r', '\t', 0x3000)))
        .Where(c => c is < 0xD800 or > 0xDFFF).Select(char.ConvertFromUtf32).ArrayOf().Select(string.Concat).ToArbitrary();

    public static void Check<T>(Arbitrary<T> values, Func<T, bool> holds) =>
        Prop.ForAll(values, holds).Check(Config.QuickThrowOnFailure.WithMaxTest(500));

    /// <summary>A temporary folder that vanishes with the test.</summary>
    public sealed class Folder : IDisposable
    {
        public string Path { get; } = Directory.CreateTempSubdirectory("kt-test-").FullName;

        public string Write(string name, string text)
        {
            var file = System.IO.Path.Combine(Path, name);
            Directory.CreateDirectory(System.IO.Path.GetDirectoryName(file)!);
            File.WriteAllText(file, text);
            return file;
        }

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }
}
