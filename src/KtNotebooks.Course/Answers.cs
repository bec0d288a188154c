using KtNotebooks.Evaluation;
using KtNotebooks.Planning;

namespace KtNotebooks.Course;

/// <summary>
/// What the exercises of the course come to, one class a notebook, so that a cell which checks an answer does not show it. How one gets there stands in
/// notebooks/solutions; the tests run those against these.
/// </summary>
public static class Answers
{
    private const double Giga = 1e9;

    /// <summary>00, check this machine.</summary>
    public static class Of00
    {
        /// <summary>GB of DeepSeek-V3's 671 billion numbers, two bytes each.</summary>
        public static double Gigabytes => 671 * sizeof(short);

        /// <summary>Of 2, 4 and 8 bits a number the most of which those fit 400 GB.</summary>
        public static int Bits => 4;

        /// <param name="gigaflops">The fastest product measured, GFLOP/s.</param>
        /// <param name="size">Of its square matrices.</param>
        public static double Products(double gigaflops, double size) => gigaflops * Giga / (2 * size * size * size);

        /// <summary>Of the host's memory the share that weights take, 0…1.</summary>
        public static double Share(MemoryPlan plan)
        {
            ArgumentNullException.ThrowIfNull(plan);
            return plan.Bytes("cpu", MemoryPlan.Weights) / (double)plan.Total("cpu");
        }
    }

    /// <summary>01, first fine-tune.</summary>
    public static class Of01
    {
        /// <summary>Tokens of a row that are not learned.</summary>
        public static int Masked(int tokens, int learned) => tokens - learned;

        /// <summary>Cross-entropy of a model that finds every token of a vocabulary of 129,280 equally likely, in nats.</summary>
        public static double Guessing => Math.Log(129_280);

        /// <summary>Numbers of the adapter with a quarter of the rank.</summary>
        public static double Quarter(double trained) => trained / 4;
    }

    /// <summary>02, convert and inspect.</summary>
    public static class Of02
    {
        /// <summary>The FP8 (E4M3) number after 2: three bits behind the leading one.</summary>
        public static double AfterTwo => 2 + (2 / 8.0);

        /// <summary>Bytes of a block of 128 × 128 in FP8 and its F32 scale.</summary>
        public static int Block => (128 * 128) + sizeof(float);

        /// <summary>Billions of parameters that are no routed experts.</summary>
        public static double Besides(MemoryPlan plan)
        {
            ArgumentNullException.ThrowIfNull(plan);
            return plan.Rows.Where(row => !row.Modules.Contains(".experts", StringComparison.Ordinal)).Sum(row => row.Parameters) / Giga;
        }
    }

    /// <summary>03, translation.</summary>
    public static class Of03
    {
        /// <summary>Single characters of the answer that the reference has too, three of four.</summary>
        public static double Characters => 3 / 4.0;

        /// <summary>Pairs, one of three.</summary>
        public static double Pairs => 1 / 3.0;

        /// <summary>Characters by which the long answers are longer, on average.</summary>
        public static double Longer(double longAnswers, double shortAnswers) => longAnswers - shortAnswers;

        /// <summary>DPO's loss −log σ(β·margin) of a pair with margin 3 and β 0.1.</summary>
        public static double PairLoss => Math.Log(1 + Math.Exp(-0.1 * 3));
    }

    /// <summary>04, AfriMed-QA.</summary>
    public static class Of04
    {
        /// <summary>Accuracy of guessing among four.</summary>
        public static double Guessing => 1 / 4.0;

        /// <summary>Standard deviation √(p(1 − p)/n) of an accuracy of 0.2 over 100 questions.</summary>
        public static double Deviation => Math.Sqrt(0.2 * (1 - 0.2) / 100);

        /// <summary>Accuracy where an answer that cannot be read counts as wrong.</summary>
        public static double Strict => 1 / 5.0;

        /// <summary>Pairs won beyond half of those asked.</summary>
        public static double BeyondHalf(double share, double asked) => (share - 0.5) * asked;
    }

    /// <summary>05, benchmark tables.</summary>
    public static class Of05
    {
        /// <summary>By which an interval shrinks with four times the questions: 1/√4.</summary>
        public static double Factor => 1 / Math.Sqrt(4);

        /// <summary>Points between two scores.</summary>
        public static double Points(Estimate tuned, Estimate untouched) => tuned.Mean - untouched.Mean;

        /// <summary>The interval of a score in percent holds what guessing among five scores.</summary>
        public static bool HoldsGuessing(Estimate score) => score.Low <= 100 / 5.0 && 100 / 5.0 <= score.High;
    }

    /// <summary>06, speed and memory.</summary>
    public static class Of06
    {
        /// <summary>Seconds on the bus where that has half the speed.</summary>
        public static double HalfSpeed(double seconds) => seconds / 0.5;

        /// <summary>Tokens a second where the bus alone is the limit.</summary>
        public static double Most(double tokens, double seconds) => tokens / seconds;

        /// <summary>Tokens a step at which bus and card take as long.</summary>
        /// <param name="seconds">On the bus.</param>
        /// <param name="product">TFLOP/s of the card.</param>
        /// <param name="active">Numbers that work for a token, six FLOPs each.</param>
        public static double Crossing(double seconds, double product, double active) => seconds * product * 1e12 / (6 * active);
    }

    /// <summary>07, CPU kernels.</summary>
    public static class Of07
    {
        /// <summary>Rows an expert from which registers are the limit, for INT4: half a byte and a scale of two bytes for each 32 numbers.</summary>
        /// <param name="ridge">The notebook's, of bytes a weight.</param>
        public static double Rows(Func<double, double> ridge)
        {
            ArgumentNullException.ThrowIfNull(ridge);
            return ridge(0.5 + (2.0 / 32));
        }

        /// <summary>Numbers before the one of row 21, column 100 of a matrix with 2048 columns: tiles of 16 rows, pairs of columns together.</summary>
        public static int Before => (16 * 2048) + (100 / 2 * 32) + (5 * 2);

        /// <summary>Tokens a second that reading BF16 experts of DeepSeek-V2-Lite once a token allows: 26 layers, 6 experts of 3 matrices.</summary>
        /// <param name="rate">Of this memory, GB/s.</param>
        public static double PerSecond(double rate) => rate * Giga / (26.0 * 6 * 3 * 2048 * 1408 * sizeof(short));
    }

    /// <summary>09, LoRA by hand.</summary>
    public static class Of09
    {
        /// <summary>Numbers of a pair of rank 16 beside a matrix of 2048 × 1408.</summary>
        public static int Numbers => 16 * (2048 + 1408);

        /// <summary>lora_alpha over lora_rank.</summary>
        public static double Factor => 2;

        /// <summary>Slope of the loss against a temperature T = 1 that divides the logits: the right one less the expected one.</summary>
        public static double Slope(IReadOnlyList<double> logits, IReadOnlyList<double> shares, int right)
        {
            ArgumentNullException.ThrowIfNull(logits);
            ArgumentNullException.ThrowIfNull(shares);
            return logits[right] - shares.Zip(logits, (share, logit) => share * logit).Sum();
        }
    }

    /// <summary>10, how a MoE layer routes.</summary>
    public static class Of10
    {
        /// <summary>Share of the first of two chosen experts, made to sum to one.</summary>
        /// <param name="shares">Of the softmax; experts 0 and 1 are chosen.</param>
        public static double Weight(IReadOnlyList<double> shares)
        {
            ArgumentNullException.ThrowIfNull(shares);
            return shares[0] / (shares[0] + shares[1]);
        }

        /// <summary>Tokens that each of 256 experts gets of 8,192, eight experts each.</summary>
        public static double TokensEach => 8192 / 256.0 * 8;

        /// <summary>Balance loss E·k·Σ f·p where two of eight experts get all.</summary>
        public static double WorstBalance => 8 * 2 * (0.5 * 0.5);

        /// <summary>Experts of token 1, in the router's order: without groups the second were 1.</summary>
        public static string OfTokenOne => "3, 2";
    }

    /// <summary>12, write your own op.</summary>
    public static class Of12
    {
        /// <summary>Gradient of the squared ReLU, 2x · dy, at x = 1.5 and dy = 2.</summary>
        public static double Gradient => 2 * 1.5 * 2;

        /// <summary>Slope that a finite difference with h = 1/256 finds for it at 0: (h² − 0) / 2h.</summary>
        public static double AtZero => 1 / 256.0 / 2;
    }
}
