namespace KtNotebooks.Server;

/// <summary>A request that is refused, or an answer that failed, as the client shall hear it: nothing of the machine is in it.</summary>
/// <param name="status">HTTP status.</param>
/// <param name="message">One line: what, where, what was expected.</param>
/// <param name="param">The field that is wrong: `messages[2].content`.</param>
/// <param name="code">OpenAI's word for the case, where it has one.</param>
public sealed class ApiException(int status, string message, string? param = null, string? code = null) : Exception(message)
{
    public int Status { get; } = status;

    public string? Param { get; } = param;

    public string? Code { get; } = code;

    /// <summary>Seconds after which it is worth trying again; null: it is not.</summary>
    public int? RetryAfter { get; init; }

    /// <summary>What happened, for the server's log alone.</summary>
    public Exception? Cause { get; init; }

    /// <summary>OpenAI's kind of error.</summary>
    public string Type => Status switch
    {
        401 or 403 => "authentication_error",
        404 or 405 => "not_found_error",
        429 => "rate_limit_error",
        >= 500 => "server_error",
        _ => "invalid_request_error",
    };

    /// <summary>Anthropic's.</summary>
    public string AnthropicType => Status switch
    {
        401 => "authentication_error",
        403 => "permission_error",
        404 or 405 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        >= 500 => "api_error",
        _ => "invalid_request_error",
    };

    /// <summary>A field that is wrong.</summary>
    public static ApiException Wrong(string param, string message) => new(400, $"{param}: {message}", param, "invalid_value");

    /// <summary>A field that is not to be had here.</summary>
    public static ApiException Unsupported(string param, string why) => new(400, $"{param} is not supported: {why}", param, "unsupported_parameter");
}
