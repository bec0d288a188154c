using static KtNotebooks.Configuration.Key;

namespace KtNotebooks.Configuration.Tables;

/// <summary>LLaMA-Factory's generating and evaluation arguments.</summary>
internal static class GenerationTable
{
    private const string Exam =
        "goes with the exams of LLaMA-Factory's old eval command; `kt eval eval_dataset=NAME` scores multiple choice by likelihood and by what is written";

    public static Key[] Keys { get; } =
    [
        Acts("do_sample", "bool", "true", KeyUse.Chat | KeyUse.Predict, "draw the next token; false: take the most likely (chat and api take a model's "
            + "generation_config.json before the defaults of this group)"),
        Acts("temperature", "float", "0.95", KeyUse.Chat | KeyUse.Predict, "below 1 sharper, above 1 flatter; 0: the most likely"),
        Acts("top_p", "float", "0.7", KeyUse.Chat | KeyUse.Predict, "draw from the likeliest tokens that have this share together"),
        Acts("top_k", "int", "50", KeyUse.Chat | KeyUse.Predict, "draw from so many likeliest tokens; 0: from all"),
        Acts("max_new_tokens", "int", "1024", KeyUse.Chat | KeyUse.Predict, "the longest answer (kt eval: 4)"),
        Acts("repetition_penalty", "float", "1", KeyUse.Chat | KeyUse.Predict, "above 1: tokens that were there are less likely"),
        NoEffect("max_length", "int", "1024", "max_new_tokens bounds the answer"),
        NoEffect("length_penalty", "float", "1", "goes with beams"),
        NoEffect("skip_special_tokens", "bool", "true", "special tokens are left out of answers"),
        Refused("num_beams", "int", "1", "answers are sampled or greedy; write 1"),
        Refused("system_message", "str", null, "write default_system"),
        NoEffect("task", "str", null, Exam),
        NoEffect("task_dir", "str", "evaluation", Exam),
        NoEffect("batch_size", "int", "4", Exam),
        NoEffect("lang", "str", "en", Exam),
        NoEffect("n_shot", "int", "5", Exam),
        NoEffect("save_dir", "str", null, Exam),
        NoEffect("download_mode", "str", null, Exam),
    ];
}
