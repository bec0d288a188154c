using KtNotebooks.Server.Http;

using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace KtNotebooks.Server;

/// <summary>An engine in an application of your own: as <see cref="IChatClient"/>, and behind the same endpoints as `kt api`.</summary>
public static class KtNotebooksServices
{
    /// <summary>Adds a <see cref="ModelEngine"/>, loaded when it is first asked for, and an <see cref="IChatClient"/> on it.</summary>
    /// <param name="services">Of the application, which frees the engine at its end.</param>
    /// <param name="arguments">A YAML file and key=value pairs over it: the keys of `kt api`.</param>
    public static IServiceCollection AddKtNotebooks(this IServiceCollection services, params string[] arguments) =>
        services.AddKtNotebooks(_ => ModelEngine.Open(arguments));

    /// <summary>The same with an engine of the caller's making.</summary>
    public static IServiceCollection AddKtNotebooks(this IServiceCollection services, Func<IServiceProvider, ModelEngine> open)
    {
        ArgumentNullException.ThrowIfNull(services);
        services.AddSingleton(open);
        return services.AddSingleton<IChatClient>(s => new KtChatClient(s.GetRequiredService<ModelEngine>()));
    }

    /// <summary>Maps all endpoints of `kt api`, with its guard: keys, hosts, origins.</summary>
    /// <param name="routes">Of the application.</param>
    /// <param name="settings">Null: defaults. Host and port are the application's; <see cref="ApiSettings.Host"/> says which Host headers are allowed.</param>
    public static IEndpointRouteBuilder MapKtNotebooks(this IEndpointRouteBuilder routes, ApiSettings? settings = null)
    {
        ArgumentNullException.ThrowIfNull(routes);
        var services = routes.ServiceProvider;
        new Endpoints(services.GetRequiredService<ModelEngine>(), settings ?? new ApiSettings(),
            services.GetRequiredService<ILoggerFactory>().CreateLogger("kt")).Map(routes);
        return routes;
    }
}
