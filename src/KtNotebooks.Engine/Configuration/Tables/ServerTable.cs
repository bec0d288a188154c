using static KtNotebooks.Configuration.Key;

namespace KtNotebooks.Configuration.Tables;

/// <summary>The keys of `kt api`; some are LLaMA-Factory's variables of the environment, which are read too.</summary>
internal static class ServerTable
{
    public static Key[] Keys { get; } =
    [
        Acts("api_host", "str", "127.0.0.1", KeyUse.Api, "the address to listen on (API_HOST); 0.0.0.0: all of this machine", theirs: "0.0.0.0"),
        Acts("api_port", "int", "8000", KeyUse.Api, "the port (API_PORT); 0: any free one"),
        Acts("api_key", "str or list", null, KeyUse.Api | KeyUse.Predict,
            "kt api: a request must bring one of these keys (API_KEY); not given: none is asked for; kt predict, kt eval: the key of api_base "
                + "(OPENAI_API_KEY)"),
        Acts("api_model_name", "str", null, KeyUse.Api | KeyUse.Predict,
            "kt api: one more name for what the config describes: its first adapter, or the base (API_MODEL_NAME); kt predict, kt eval: the model of api_base",
            theirs: "gpt-3.5-turbo"),
        Acts("api_base", "str", null, KeyUse.Predict, "ask this OpenAI-style server, as http://127.0.0.1:8000/v1, instead of loading a model"),
        Acts("api_concurrency", "int", "16", KeyUse.Predict, "requests to api_base at once"),
        Acts("api_slots", "int", "64", KeyUse.Api, "sequences that are computed at once (MAX_CONCURRENT)", theirs: "1"),
        Acts("api_queue", "int", "256", KeyUse.Api, "requests that may wait for a slot; one more is told to come back (429)"),
        Acts("api_prompt_rows", "int", "512", KeyUse.Api, "rows of prompts in one pass; a longer prompt runs in pieces, between which others draw tokens"),
        Acts("api_cache_tokens", "int", "131072", KeyUse.Api, "tokens that the cache holds; what finds no room waits"),
        Acts("api_adapter_folders", "list", null, KeyUse.Api, "adapters below these folders may be loaded by request; not given: none"),
        Acts("api_cors", "list", null, KeyUse.Api, "pages of these origins may call, `*`: of all; not given: no other page", theirs: "*"),
        Acts("api_max_body_mb", "float", "4", KeyUse.Api, "a larger body is refused (413)"),
        Acts("api_timeout", "int", "600", KeyUse.Api, "seconds that an answer may take"),
        Acts("api_verbose", "bool", "false", KeyUse.Api, "log requests and answers with their texts (API_VERBOSE)", theirs: "true"),
    ];
}
