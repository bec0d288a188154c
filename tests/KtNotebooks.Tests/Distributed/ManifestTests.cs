using Xunit;

using YamlDotNet.Core;
using YamlDotNet.Serialization;
using YamlDotNet.Serialization.NamingConventions;

namespace KtNotebooks.Tests.Distributed;

/// <summary>
/// docs/kubernetes/mpijob.yaml against the types of the MPI operator (pkg/apis/kubeflow/v2beta1/types.go) and of Kubernetes' pods, as far as it uses them: a
/// field that they do not have, or of another type, is an error as it is for the API server.
/// </summary>
public class ManifestTests
{
    private static readonly string Path = System.IO.Path.Combine(Checkout.Root, "docs", "kubernetes", "mpijob.yaml");

    [Fact]
    public void The_manifest_is_what_the_operator_takes()
    {
        var job = Read(File.ReadAllText(Path));
        Assert.Equal(("kubeflow.org/v2beta1", "MPIJob"), (job.ApiVersion, job.Kind));
        Assert.Matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", job.Metadata["name"]);
        Assert.Contains(job.Spec.MpiImplementation, (string[])["OpenMPI", "Intel"]);
        Assert.Contains(job.Spec.RunPolicy.CleanPodPolicy, (string[])["All", "Running", "None"]);
        Assert.True(job.Spec.SlotsPerWorker >= 1);
        Assert.Equal(["Launcher", "Worker"], job.Spec.MpiReplicaSpecs.Keys.Order());
        Assert.Equal(1, job.Spec.MpiReplicaSpecs["Launcher"].Replicas);
        foreach (var replica in job.Spec.MpiReplicaSpecs.Values)
        {
            Assert.Contains(replica.RestartPolicy, (string[])["Never", "OnFailure"]);
            var pod = replica.Template.Spec;
            Assert.All(pod.Containers, c => Assert.True(c is { Name.Length: > 0, Image.Length: > 0, Command.Count: > 0 }));
            Assert.All(pod.Containers.SelectMany(c => c.VolumeMounts), mount => Assert.Contains(mount.Name, pod.Volumes.Select(v => v.Name)));
        }
        Assert.Contains("train", job.Spec.MpiReplicaSpecs["Launcher"].Template.Spec.Containers[0].Args);
    }

    [Theory]
    [InlineData("slotsPerWorker: 1", "slotPerWorker: 1")]
    [InlineData("slotsPerWorker: 1", "slotsPerWorker: one")]
    [InlineData("replicas: 4", "replica: 4")]
    public void A_slip_would_be_seen(string right, string wrong) =>
        Assert.ThrowsAny<YamlException>(() => Read(File.ReadAllText(Path).Replace(right, wrong, StringComparison.Ordinal)));

    private static Job Read(string text) => new DeserializerBuilder().WithNamingConvention(CamelCaseNamingConvention.Instance).Build().Deserialize<Job>(text);

    private sealed class Job
    {
        public string ApiVersion { get; set; } = "";

        public string Kind { get; set; } = "";

        public Dictionary<string, string> Metadata { get; set; } = [];

        public JobSpec Spec { get; set; } = new();
    }

    private sealed class JobSpec
    {
        public int SlotsPerWorker { get; set; } = 1;

        public Policy RunPolicy { get; set; } = new();

        public Dictionary<string, Replica> MpiReplicaSpecs { get; set; } = [];

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

        public string RestartPolicy { get; set; } = "";

        public Pod Template { get; set; } = new();
    }

    private sealed class Pod
    {
        public Dictionary<string, string> Metadata { get; set; } = [];

        public PodSpec Spec { get; set; } = new();
    }

    private sealed class PodSpec
    {
        public List<Container> Containers { get; set; } = [];

        public List<Volume> Volumes { get; set; } = [];
    }

    private sealed class Container
    {
        public string Name { get; set; } = "";

        public string Image { get; set; } = "";

        public List<string> Command { get; set; } = [];

        public List<string> Args { get; set; } = [];

        public List<Dictionary<string, string>> Env { get; set; } = [];

        public Dictionary<string, Dictionary<string, string>> Resources { get; set; } = [];

        public List<Mount> VolumeMounts { get; set; } = [];
    }

    private sealed class Mount
    {
        public string Name { get; set; } = "";

        public string MountPath { get; set; } = "";
    }

    private sealed class Volume
    {
        public string Name { get; set; } = "";

        public Dictionary<string, string>? PersistentVolumeClaim { get; set; }

        public Dictionary<string, string>? EmptyDir { get; set; }
    }
}
