using static KtNotebooks.Configuration.Key;

namespace KtNotebooks.Configuration.Tables;

/// <summary>LLaMA-Factory's data arguments.</summary>
internal static class DataTable
{
    public static Key[] Keys { get; } =
    [
        Acts("template", "str", null, KeyUse.Train | KeyUse.Chat | KeyUse.Predict,
            "the form of a conversation: deepseek, deepseek3, qwen3, kimi_k2, …, or auto: the chat template that the model brings; without one texts follow "
                + "each other without marks"),
        Acts("dataset", "list", null, KeyUse.Train | KeyUse.Predict | KeyUse.Plan, "data sets by their names in dataset_info.json"),
        Acts("eval_dataset", "list", null, KeyUse.Train | KeyUse.Predict, "data sets to evaluate or predict"),
        Acts("dataset_dir", "str", "data", KeyUse.Train | KeyUse.Predict, "the folder of dataset_info.json"),
        Acts("cutoff_len", "int", "2048", KeyUse.Train | KeyUse.Predict | KeyUse.Plan, "the most tokens of a row"),
        Acts("max_samples", "int", null, KeyUse.Train | KeyUse.Predict, "the first so many rows of each data set"),
        Acts("val_size", "float", "0", KeyUse.Train | KeyUse.Predict, "rows of dataset that are held out: a share below 1, or a number"),
        Acts("train_on_prompt", "bool", "false", KeyUse.Train, "learn the questions as well"),
        Acts("mask_history", "bool", "false", KeyUse.Train, "learn the last answer of a conversation alone"),
        Acts("mix_strategy", "concat | interleave_under | interleave_over | interleave_once", "concat", KeyUse.Train, "how several data sets become one"),
        Acts("interleave_probs", "list", null, KeyUse.Train, "the share of each data set"),
        Acts("packing", "bool", null, KeyUse.Train,
            "several rows in a sequence that see each other; not given: false, for stage: pt true (texts in a row, cut every cutoff_len tokens)"),
        Acts("neat_packing", "bool", "false", KeyUse.Train, "several rows in a sequence that do not see each other"),
        Acts("preprocessing_batch_size", "int", "1000", KeyUse.Train, "rows that are packed together"),
        Acts("streaming", "bool", "false", KeyUse.Train, "rows are read and encoded as they are learned, with max_steps; not before the first step"),
        Acts("buffer_size", "int", "16384", KeyUse.Train, "streaming: rows in memory, of which the next is drawn at random"),
        Acts("overwrite_cache", "bool", "false", KeyUse.Train, "encode the rows again although the cache has them"),
        Acts("tool_format", "default | qwen | glm4", null, KeyUse.Train | KeyUse.Chat | KeyUse.Predict,
            "how tools are told to the model, in place of the template's way"),
        Acts("default_system", "str", null, KeyUse.Train | KeyUse.Chat | KeyUse.Predict, "the system text of conversations that have none"),
        Acts("enable_thinking", "bool or null", "true", KeyUse.Train | KeyUse.Chat | KeyUse.Predict,
            "templates with thoughts: true learns them, false leaves them out, null takes rows as they are"),
        NoEffect("preprocessing_num_workers", "int", null, "rows are encoded on all processors"),
        NoEffect("media_dir", "str", null, "text alone is read here; rows with media are refused"),
        NoEffect("ignore_pad_token_for_loss", "bool", "true", "nothing is padded"),
        NoEffect("data_shared_file_system", "bool", "false", "one machine reads the rows"),
        Refused("eval_num_beams", "int", null, "answers are sampled or greedy; leave it out"),
        Refused("eval_on_each_dataset", "bool", "false", "not offered yet: evaluate each set with `kt eval`"),
        Refused("tokenized_path", "str", null, "encoded rows are kept in the cache beside the data set by themselves; leave it out"),
        Refused("preserve_thinking", "bool", "false", "not offered yet: thoughts of earlier turns are left out, as the models' own templates do"),
        Refused("reserved_label_len", "int", null, "cutoff_len shares its tokens between question and answer; leave it out"),
    ];
}
