namespace KtNotebooks.Course.Synthetic;

/// <summary>Small sums, differences, products, comparisons and counting: facts that need no table.</summary>
internal static class Arithmetic
{
    private static readonly string[] English =
    [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
        "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
    ];

    private const string Digits = "零一二三四五六七八九";

    public static IEnumerable<Fact> Facts()
    {
        for (var a = 0; a <= 20; a++)
            for (var b = 0; b <= 20; b++)
            {
                if (a + b <= 20)
                    foreach (var fact in Operation("sum", a, b, a + b, "加", "加上", "plus", "+"))
                        yield return fact;
                if (a >= b)
                    foreach (var fact in Operation("difference", a, b, a - b, "减", "减去", "minus", "-"))
                        yield return fact;
                if (a is >= 1 and <= 9 && b is >= 1 and <= 9)
                    foreach (var fact in Operation("product", a, b, a * b, "乘", "乘以", "times", "×"))
                        yield return fact;
                if (a != b)
                    foreach (var fact in Comparison(a, b))
                        yield return fact;
            }
        for (var n = 1; n < 20; n++)
            foreach (var fact in Neighbours(n))
                yield return fact;
    }

    private static Fact[] Operation(string name, int a, int b, int result, string zh, string zhLong, string en, string sign)
    {
        string equation = $"{a} {sign} {b}";
        return Pair($"{name}/{a} {b}", name,
            [$"{a}{zh}{b}等于几？", $"{a}{zhLong}{b}是多少？", $"{Chinese(a)}{zh}{Chinese(b)}等于多少？", $"{equation} 的结果是多少？"],
            [$"{a}{zh}{b}等于{result}。", $"{a}{zhLong}{b}等于{result}。", $"{equation} = {result}。"],
            [$"那{a}{zh}{b}呢？"],
            [$"What is {a} {en} {b}?", $"How much is {a} {en} {b}?", $"What is {Word(a)} {en} {Word(b)}?", $"Can you work out {equation}?"],
            [$"{a} {en} {b} is {result}.", $"{a} {en} {b} equals {result}.", $"{equation} = {result}."],
            [$"And {a} {en} {b}?"]);
    }

    private static Fact[] Comparison(int a, int b)
    {
        int big = Math.Max(a, b), small = Math.Min(a, b);
        return Pair($"comparison/{a} {b}", "comparison",
            [$"{a}和{b}哪个大？", $"{a}和{b}相比，哪个数更大？", $"{Chinese(a)}和{Chinese(b)}哪个大一些？"],
            [$"{big}比{small}大。", $"{big}更大，{small}更小。"],
            [$"那{a}和{b}呢？"],
            [$"Which is bigger, {a} or {b}?", $"Which number is larger: {a} or {b}?", $"Is {Word(a)} or {Word(b)} the bigger number?"],
            [$"{big} is bigger than {small}.", $"{big} is the bigger number."],
            [$"And {a} or {b}?"]);
    }

    private static Fact[] Neighbours(int n) =>
    [
        .. Pair($"after/{n}", "after",
            [$"{n}后面的数是几？", $"比{n}大1的数是多少？", $"数数的时候，{n}的后面是几？"],
            [$"{n}后面的数是{n + 1}。", $"比{n}大1的数是{n + 1}。"],
            [$"那{n}呢？"],
            [$"What number comes after {n}?", $"Which number follows {n}?", $"When I count, what comes after {Word(n)}?"],
            [$"The number after {n} is {n + 1}.", $"{n + 1} comes after {n}."],
            [$"And after {n}?"]),
        .. Pair($"before/{n}", "before",
            [$"{n}前面的数是几？", $"比{n}小1的数是多少？", $"数数的时候，{n}的前面是几？"],
            [$"{n}前面的数是{n - 1}。", $"比{n}小1的数是{n - 1}。"],
            [$"那{n}呢？"],
            [$"What number comes before {n}?", $"Which number is just before {n}?", $"When I count, what comes before {Word(n)}?"],
            [$"The number before {n} is {n - 1}.", $"{n - 1} comes before {n}."],
            [$"And before {n}?"]),
    ];

    private static Fact[] Pair(string id, string group,
        string[] zhAsk, string[] zhAnswer, string[] zhFollow, string[] enAsk, string[] enAnswer, string[] enFollow) =>
    [
        Make(Language.Chinese, zhAsk, zhAnswer, zhFollow, id, group),
        Make(Language.English, enAsk, enAnswer, enFollow, id, group),
    ];

    private static Fact Make(Language language, string[] ask, string[] answer, string[] follow, string id, string group) => new()
    {
        Id = $"{Table}/{id}",
        Entity = $"{Table}/{id}",
        Group = $"{Table}/{group}",
        Language = language,
        Questions = ask,
        Answers = answer,
        FollowUps = follow,
    };

    /// <summary>The name under which these facts stand beside the tables.</summary>
    public const string Table = "arithmetic";

    private static string Word(int n) => English[n];

    private static string Chinese(int n) => n switch
    {
        < 10 => Digits[n..(n + 1)],
        10 => "十",
        < 20 => $"十{Digits[n - 10]}",
        _ => "二十",
    };
}
