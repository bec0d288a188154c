using System.Globalization;
using System.Net;
using System.Net.NetworkInformation;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

using KtNotebooks.Tensors;

namespace KtNotebooks.Distributed;

/// <summary>Brings the ranks of a run together, as whoever started them says in the environment.</summary>
public static partial class Ranks
{
    /// <summary>Seconds that a rank may be silent.</summary>
    public const string PatienceVariable = "KT_RANK_TIMEOUT";

    /// <summary>For the first connections, and for all that is said before the watch begins.</summary>
    private static readonly TimeSpan Meeting = TimeSpan.FromSeconds(60), Whole = TimeSpan.FromSeconds(75);

    /// <summary>Those that this process belongs to.</summary>
    public static ICollective Current { get; private set; } = SingleRank.Instance;

    /// <summary>
    /// Joins the other ranks, where there are any: waits for them. Each gets one card of its host, by its local number, and its share of the host's processors
    /// unless the launcher has bound it to some.
    /// </summary>
    /// <param name="end">Says a line (none where it is empty) and ends the process with a code, when another rank is lost.</param>
    /// <param name="note">Hears of what was asked for and is done otherwise.</param>
    /// <exception cref="ArgumentException">The environment contradicts itself.</exception>
    /// <exception cref="IOException">The others are not there.</exception>
    /// <param name="cancel">Ends the wait for others who do not come.</param>
    public static ICollective Join(Action<string, int> end, Action<string> note, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(end);
        ArgumentNullException.ThrowIfNull(note);
        if (Current.World > 1) return Current;
        var launch = Launch.Read(Environment.GetEnvironmentVariable);
        if (launch.Note.Length > 0) note(launch.Note);
        if (launch.World == 1) return Current;
        TakeCard(launch);
        // Until they watch each other nobody hears of one that stands still.
        using var limit = new Timer(_ => end($"rank {launch.Rank} of {launch.World} waited {Whole.TotalSeconds:0} s for the others to meet: one of them stands "
            + "still, or cannot be reached", RankWatch.LostCode), null, Whole, Timeout.InfiniteTimeSpan);
        HostCollective ranks = launch.By == Launcher.Mpi ? JoinByMpi(end, cancel) : JoinBySockets(launch, end, cancel);
        ShareProcessors(ranks);
        HostMemory.Sharers = ranks.Hosts.Count(host => host == ranks.Hosts[ranks.Rank]);
        return Current = new CardCollective(ranks);
    }

    /// <summary>The end of what the ranks did together.</summary>
    public static void Leave()
    {
        Current.Dispose();
        Current = SingleRank.Instance;
    }

    private static TimeSpan Patience => Environment.GetEnvironmentVariable(PatienceVariable) is not { Length: > 0 } text ? TimeSpan.FromSeconds(8)
        : double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var seconds) && seconds is >= 2 and <= 86400
        ? TimeSpan.FromSeconds(seconds)
        : throw new ArgumentException($"{PatienceVariable} must be seconds, from 2 to 86400, but is '{text}'");

    private static MpiCollective JoinByMpi(Action<string, int> end, CancellationToken cancel)
    {
        var patience = Patience;
        var ranks = new MpiCollective();
        var first = ranks.Rank == 0;
        using var listener = first ? Rendezvous.Listen(0) : null;
        var own = first ? ((IPEndPoint)listener!.LocalEndPoint!).Port : 0;
        string[] self = [Environment.MachineName, $"{Environment.ProcessId}", $"{own}", Convert.ToHexString(RandomNumberGenerator.GetBytes(12))];
        var where = ranks.AllGather(string.Join('\n', [.. self, .. first ? Addresses() : []])).Select(text => text.Split('\n')).ToArray();
        ranks.Meet(where.Select(w => w[0]));
        var (word, port) = (where[0][3], int.Parse(where[0][2], CultureInfo.InvariantCulture));
        (int, string, int, Socket) Peer(int rank, Socket socket) => (rank, where[rank][0], int.Parse(where[rank][1], CultureInfo.InvariantCulture), socket);
        var peers = first ? Rendezvous.Accept(listener!, word, ranks.World, 1, Meeting, cancel)[0].Index().Skip(1).Select(p => Peer(p.Index, p.Item!))
            : [Peer(0, Rendezvous.Connect(where[0][4..], port, word, ranks.World, ranks.Rank, 0, Meeting, cancel))];
        ranks.Watch = new RankWatch(ranks.Rank, peers, patience, end);
        return ranks;
    }

    private static SocketCollective JoinBySockets(Launch launch, Action<string, int> end, CancellationToken cancel)
    {
        var patience = Patience;
        var word = Convert.ToHexString(SHA256.HashData(Encoding.UTF8.GetBytes(launch.Run)))[..24]; // who comes from another start is a stranger
        Socket?[][] met;
        if (launch.Rank == 0)
        {
            using var listener = Rendezvous.Listen(launch.Port, launch.OtherPort);
            met = Rendezvous.Accept(listener, word, launch.World, 2, Meeting, cancel);
        }
        else
        {
            Socket Connect(int purpose) => Rendezvous.Connect([launch.Master], launch.Port, word, launch.World, launch.Rank, purpose, Meeting,
                cancel);
            met = [[Connect(Rendezvous.Data)], [Connect(Rendezvous.Watch)]];
        }
        var ranks = new SocketCollective(launch.Rank, launch.World, met[Rendezvous.Data]);
        var where = ranks.AllGather($"{Environment.MachineName}\n{Environment.ProcessId}").Select(text => text.Split('\n')).ToArray();
        ranks.Meet(where.Select(w => w[0]));
        ranks.Watch = new RankWatch(launch.Rank, met[Rendezvous.Watch].Index().Where(p => p.Item is not null)
            .Select(p => (p.Index, where[p.Index][0], int.Parse(where[p.Index][1], CultureInfo.InvariantCulture), p.Item!)), patience, end);
        return ranks;
    }

    /// <summary>Of this host, those that others may reach first.</summary>
    private static IEnumerable<string> Addresses() => NetworkInterface.GetAllNetworkInterfaces()
        .Where(n => n.OperationalStatus is OperationalStatus.Up or OperationalStatus.Unknown)
        .SelectMany(n => n.GetIPProperties().UnicastAddresses).Select(a => a.Address).Where(a => !a.IsIPv6LinkLocal)
        .OrderBy(IPAddress.IsLoopback).ThenBy(a => a.AddressFamily != AddressFamily.InterNetwork).Select(a => a.ToString());

    private static void TakeCard(Launch launch)
    {
        const string Visible = "CUDA_VISIBLE_DEVICES";
        if (launch.CardToShow(Environment.GetEnvironmentVariable(Visible)) is { } card) _ = setenv(Visible, card, 1);
    }

    /// <summary>Ranks of one host that the launcher has not bound to processors of their own would each take all of them.</summary>
    private static void ShareProcessors(HostCollective ranks)
    {
        const string Allowed = "Cpus_allowed_list:";
        const string Status = "/proc/self/status";
        var own = File.Exists(Status) ? File.ReadLines(Status).FirstOrDefault(line => line.StartsWith(Allowed, StringComparison.Ordinal)) ?? "" : "";
        var alike = ranks.AllGather(own).Zip(ranks.Hosts).Count(rank => rank.First == own && rank.Second == ranks.Hosts[ranks.Rank]);
        if (alike == 1 || Environment.GetEnvironmentVariable("KT_THREADS") is { Length: > 0 }) return;
        Environment.SetEnvironmentVariable("KT_THREADS", Math.Max(1, Environment.ProcessorCount / alike).ToString(CultureInfo.InvariantCulture));
    }

    /// <summary>The driver reads the environment of the process, which .NET's own copy does not change.</summary>
    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int setenv(string name, string value, int overwrite);
}
