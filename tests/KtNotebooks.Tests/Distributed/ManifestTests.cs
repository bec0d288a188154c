using System.Text.RegularExpressions;

using Xunit;

using YamlDotNet.Core;
using YamlDotNet.Serialization;
using YamlDotNet.Serialization.NamingConventions;

namespace KtNotebooks.Tests.Distributed;

/// <summary>
/// docs/kubernetes/mpijob.yaml against the schema of the MPI operator's MPIJob v2beta1 (kubeflow/mpi-operator, manifests/base/kubeflow.org_mpijobs.yaml) and of
/// the pods in it, as far as it uses them: names, types and what is required were read off that schema. A field that it does not have, or of another type, is
/// an error, as for an API server with fieldValidation=Strict.
/// </summary>
public class ManifestTests
{
    /// <summary>x-kubernetes-int-or-string of a quantity.</summary>
    private const string Quantity = @"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

    private static readonly string Text = File.ReadAllText(Path.Combine(Checkout.Root, "docs", "kubernetes", "mpijob.yaml"));

    [Fact]
    public void The_manifest_is_what_the_operator_takes()
    {
        var job = Check(Text);
        Assert.Contains("train", job.Spec.MpiReplicaSpecs["Launcher"].Template.Spec.Containers[0].Args);
    }

    /// <summary>Every name of a field, one after the other, with a letter too many; names that are ours or a pod's (labels, limits) are free.</summary>
    [Fact]
    public void A_slip_in_any_name_is_seen()
    {
        var lines = Text.Split('\n');
        var tried = 0;
        for (var i = 0; i < lines.Length; i++)
        {
            if (Regex.Match(lines[i], @"^(\s*(?:- )?)([A-Za-z]+):(\s|$)") is not { Success: true } key || key.Groups[2].Value == "memory") continue;
            var slip = string.Join('\n', lines.Index().Select(line => line.Index == i ? line.Item.Insert(key.Groups[2].Index, "x") : line.Item));
            Assert.True(Refuses(slip), $"line {i + 1}: x{key.Groups[2].Value} was taken");
            tried++;
        }
        Assert.InRange(tried, 40, 100);
    }

    [Theory]
    [InlineData("slotsPerWorker: 1", "slotsPerWorker: one")]
    [InlineData("mpiImplementation: OpenMPI", "mpiImplementation: MPI")]
    [InlineData("cleanPodPolicy: Running", "cleanPodPolicy: Always")]
    [InlineData("restartPolicy: OnFailure", "restartPolicy: Sometimes")]
    [InlineData("memory: 64Gi", "memory: 64 GB")]
    [InlineData("- name: shm # ranks", "- name: shmem # ranks")] // what is mounted is no volume
    [InlineData("claimName: work", "readOnly: true")] // required
    [InlineData("kubeflow.org/v2beta1", "kubeflow.org/v1")]
    [InlineData("name: kt-train", "name: KT train")]
    [InlineData("    Worker:", "    Workers:")]
    public void A_wrong_value_is_seen(string right, string wrong)
    {
        Assert.Contains(right, Text, StringComparison.Ordinal);
        Assert.True(Refuses(Text.Replace(right, wrong, StringComparison.Ordinal)));
    }

    private static bool Refuses(string text)
    {
        try
        {
            Check(text);
            return false;
        }
        catch (Exception error) when (error is YamlException or InvalidDataException)
        {
            return true;
        }
    }

    private static Job Check(string text)
    {
        var job = new DeserializerBuilder().WithNamingConvention(CamelCaseNamingConvention.Instance).WithEnforceRequiredMembers().Build()
            .Deserialize<Job>(text);
        void Want(bool so, string what)
        {
            if (!so) throw new InvalidDataException(what);
        }
        Want((job.ApiVersion, job.Kind) == ("kubeflow.org/v2beta1", "MPIJob"), "apiVersion and kind");
        Want(Regex.IsMatch(job.Metadata.Name, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), "a DNS label as name");
        Want(job.Spec.MpiImplementation is "OpenMPI" or "Intel" or "MPICH", "mpiImplementation");
        Want(job.Spec.RunPolicy.CleanPodPolicy is "All" or "Running" or "None", "cleanPodPolicy");
        Want(job.Spec.SlotsPerWorker >= 1, "slotsPerWorker");
        Want(job.Spec.MpiReplicaSpecs.Keys.Order().SequenceEqual(["Launcher", "Worker"]), "the kinds of replicas");
        Want(job.Spec.MpiReplicaSpecs["Launcher"].Replicas == 1, "one launcher");
        foreach (var replica in job.Spec.MpiReplicaSpecs.Values)
        {
            Want(replica.RestartPolicy is "Never" or "OnFailure", "restartPolicy");
            var pod = replica.Template.Spec;
            Want(pod.Containers.Count > 0 && pod.Containers.All(c => c is { Image.Length: > 0, Command.Count: > 0 }), "containers that run something");
            foreach (var container in pod.Containers)
            {
                Want(container.Resources.Limits.Values.Concat(container.Resources.Requests.Values).All(q => Regex.IsMatch(q, Quantity)), "quantities");
                Want(container.VolumeMounts.All(mount => pod.Volumes.Any(v => v.Name == mount.Name)), "mounts of volumes");
            }
            Want(pod.Volumes.All(v => (v.PersistentVolumeClaim is null) != (v.EmptyDir is null)), "one source a volume");
        }
        return job;
    }

    private sealed class Job
    {
        public required string ApiVersion { get; set; }

        public required string Kind { get; set; }

        public required Meta Metadata { get; set; }

        public required JobSpec Spec { get; set; }
    }

    private sealed class Meta
    {
        public required string Name { get; set; }

        public string? Namespace { get; set; }

        public Dictionary<string, string> Labels { get; set; } = [];
    }

    private sealed class JobSpec
    {
        public int SlotsPerWorker { get; set; } = 1;

        public Policy RunPolicy { get; set; } = new();

        public required Dictionary<string, Replica> MpiReplicaSpecs { get; set; }

        public string SshAuthMountPath { get; set; } = "";

        public string MpiImplementation { get; set; } = "OpenMPI";
    }

    private sealed class Policy
    {
        public string CleanPodPolicy { get; set; } = "Running";

        public int? TtlSecondsAfterFinished { get; set; }

        public long? ActiveDeadlineSeconds { get; set; }

        public int? BackoffLimit { get; set; }

        public bool? Suspend { get; set; }
    }

    private sealed class Replica
    {
        public int? Replicas { get; set; }

        public string RestartPolicy { get; set; } = "Never";

        public required Pod Template { get; set; }
    }

    private sealed class Pod
    {
        public required PodSpec Spec { get; set; }
    }

    private sealed class PodSpec
    {
        public required List<Container> Containers { get; set; }

        public List<Volume> Volumes { get; set; } = [];
    }

    private sealed class Container
    {
        public required string Name { get; set; }

        public string Image { get; set; } = "";

        public List<string> Command { get; set; } = [];

        public List<string> Args { get; set; } = [];

        public List<Variable> Env { get; set; } = [];

        public Amounts Resources { get; set; } = new();

        public List<Mount> VolumeMounts { get; set; } = [];
    }

    private sealed class Variable
    {
        public required string Name { get; set; }

        public string Value { get; set; } = "";
    }

    private sealed class Amounts
    {
        public Dictionary<string, string> Limits { get; set; } = [];

        public Dictionary<string, string> Requests { get; set; } = [];
    }

    private sealed class Mount
    {
        public required string Name { get; set; }

        public required string MountPath { get; set; }
    }

    private sealed class Volume
    {
        public required string Name { get; set; }

        public Claim? PersistentVolumeClaim { get; set; }

        public Memory? EmptyDir { get; set; }
    }

    private sealed class Claim
    {
        public required string ClaimName { get; set; }

        public bool ReadOnly { get; set; }
    }

    private sealed class Memory
    {
        public string Medium { get; set; } = "";

        public string SizeLimit { get; set; } = "";
    }
}
