using KtNotebooks.Course;
using KtNotebooks.Tests.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Course;

public sealed class AfriMedTests : IDisposable
{
    private const string Header = "sample_id,split,question_type,tier,question,question_clean,answer_options,correct_answer,answer_rationale\n";

    private readonly Samples.Folder _folder = new();

    [Fact]
    public void A_choice_becomes_lettered_options_and_one_letter()
    {
        Convert("""1,train,mcq,expert,x,"Which, of these? ","{""option1"": ""a.\tNone"", ""option2"": ""N/A"", """
            + """ ""option3"": ""b) One"", ""option5"": ""N/A"", ""option4"": ""E. coli in the gut""}",option4,no rationale""");
        Assert.Equal(
            """[{"instruction":"Which, of these?\nA. None\nB. One\nC. coli in the gut\nAnswer with the letter of the right option only.","output":"C"}]""",
            Flat("set_mcq_train.json"));
    }

    [Fact]
    public void A_short_answer_is_the_rationale_and_splits_go_apart()
    {
        var result = Convert("1,train,saq,expert,raw,What?,,, Because of it. \n2,test,saq,expert,Only raw?,,,,Yes it is");
        Assert.Equal([("set_saq_test.json", 1), ("set_saq_train.json", 1)], result.Written);
        Assert.Equal("""[{"instruction":"What?","output":"Because of it."}]""", Flat("set_saq_train.json"));
        Assert.Equal("""[{"instruction":"Only raw?","output":"Yes it is"}]""", Flat("set_saq_test.json"));
    }

    [Theory]
    [InlineData("1,train,mcq,e,q,q,\"{\"\"option1\"\": \"\"a\"\", \"\"option2\"\": \"\"b\"\"}\",\"option1,option2\",r", "correct_answer is 'option1,option2'")]
    [InlineData("1,train,mcq,e,q,q,\"{\"\"option1\"\": \"\"a\"\", \"\"option2\"\": \"\"N/A\"\"}\",option1,r", "not among the 1 options")]
    [InlineData("1,train,mcq,e,q,q,\"{\"\"option1\"\": \"\"a\"\", \"\"option2\"\": \"\"b\"\"}\",option3,r", "option3 is not among the 2")]
    [InlineData("1,train,mcq,e,q,q,none,option1,r", "no JSON object of options: none")]
    [InlineData("1,train,saq,e,q,q,,,N/A", "too short")]
    [InlineData("1,train,consumer_queries,e,q,q,,,Long enough", "'consumer_queries' has no reference answer")]
    [InlineData("1,dev,saq,e,q,q,,,Long enough", "split is 'dev'")]
    [InlineData("1,train,saq,e,,,,,Long enough", "question is empty")]
    public void A_row_that_cannot_be_used_is_listed_with_its_reason(string row, string reason)
    {
        var result = Convert(row);
        Assert.Empty(result.Written);
        Assert.StartsWith(Path.Combine(_folder.Path, "set.csv:2: "), Assert.Single(result.Skipped));
        Assert.Contains(reason, result.Skipped[0]);
    }

    [Theory]
    [InlineData("")]
    [InlineData(Header)]
    public void A_file_without_rows_is_an_error(string text)
    {
        var file = _folder.Write("set.csv", text);
        Assert.StartsWith($"{file}: has no rows", Assert.Throws<InvalidDataException>(() => AfriMed.Convert(file, _folder.Path)).Message);
    }

    [Fact]
    public void A_missing_column_is_named()
    {
        var file = _folder.Write("set.csv", "sample_id,split,question_type,question,question_clen\n1,train,saq,a,b\n");
        Assert.Contains("no column 'question_clean'. Did you mean 'question_clen'?",
            Assert.Throws<InvalidDataException>(() => AfriMed.Convert(file, _folder.Path)).Message);
    }

    public void Dispose() => _folder.Dispose();

    private AfriMed.Result Convert(string rows) => AfriMed.Convert(_folder.Write("set.csv", Header + rows + "\n"), _folder.Path);

    private string Flat(string file) => File.ReadAllText(Path.Combine(_folder.Path, file)).Replace("\n", "");
}
