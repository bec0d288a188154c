using KtNotebooks.Tensors;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>The order of a step's tasks: complete, possible for any placement, and on one device what it always was.</summary>
public class StepScheduleTests
{
    private static readonly int[] Starts = [0, 5, 16, 17, 47, 55, 57];

    [Fact]
    public void On_one_device_a_step_is_one_task()
    {
        var schedule = new StepSchedule([.. Enumerable.Repeat(Device.Cpu, 6)], Starts, 1, 0);
        var task = Assert.Single(schedule.Tasks);
        Assert.Equal((StepPhase.Turn, new StageRun(0, Device.Cpu, 0, 6), new WindowPart(0, 0, 57)), (task.Phase, task.Run, task.Part));
        Assert.False(schedule.IsConcurrent);
        Assert.Equal([.. Enumerable.Range(0, 6).Select(i => (i, false, 57)), .. Enumerable.Range(0, 6).Reverse().Select(i => (i, true, 57))],
            schedule.Visits());
    }

    [Theory]
    [InlineData(1, new[] { 0 })]
    [InlineData(2, new[] { 0, 17 })]
    [InlineData(3, new[] { 0, 17, 47 })]
    [InlineData(4, new[] { 0, 16, 17, 47 })]
    [InlineData(57, new[] { 0, 5, 16, 17, 47, 55 })]
    public void Parts_are_whole_sequences_of_nearly_equal_size(int parts, int[] begins)
    {
        var schedule = new StepSchedule([Device.Cpu], Starts, parts, 0);
        Assert.Equal(begins, schedule.Parts.Select(p => p.From));
        Assert.Equal([.. begins[1..], 57], schedule.Parts.Select(p => p.To));
        Assert.Equal(Enumerable.Range(0, begins.Length), schedule.Parts.Select(p => p.Number));
    }

    [Fact]
    public void A_window_of_one_sequence_is_one_part() => Assert.Single(new StepSchedule([Device.Cuda(0), Device.Cuda(1)], [0, 100], 4, 0).Parts);

    [Fact]
    public void Layers_in_turn_give_every_card_a_layer_of_each_part_after_the_other()
    {
        var schedule = new StepSchedule(Placed(0, 1, 0), Starts, 2, 0);
        Assert.True(schedule.IsConcurrent);
        Assert.Equal(["Forward 0 0", "Forward 0 1", "Turn 2 0", "Turn 2 1", "Backward 0 0", "Backward 0 1"], schedule.Of(Device.Cuda(0)).Select(Text));
        Assert.Equal(["Forward 1 0", "Forward 1 1", "Backward 1 0", "Backward 1 1"], schedule.Of(Device.Cuda(1)).Select(Text));
    }

    [Fact]
    public void Consecutive_layers_are_one_run()
    {
        var schedule = new StepSchedule(Placed(0, 0, 1, 1), Starts, 2, 0);
        Assert.Equal(["Forward 0 0", "Forward 0 1", "Turn 1 0", "Turn 1 1", "Backward 0 0", "Backward 0 1"], schedule.Tasks.Select(Text));
    }

    /// <summary>
    /// Wherever layers lie, no task needs one that comes later, every stage sees every part once upwards and, from the lowest trained one on, once
    /// downwards.
    /// </summary>
    [Fact]
    public void Any_placement_can_be_worked_off()
    {
        var random = new Random(1);
        for (var round = 0; round < 200; round++)
        {
            int[] cards = [.. Enumerable.Range(0, random.Next(1, 9)).Select(_ => random.Next(4))];
            var stages = Placed(cards);
            var lowest = random.Next(stages.Length + 1);
            var schedule = new StepSchedule(stages, Starts, random.Next(1, 5), lowest);
            HashSet<(int Stage, bool Backward, int Part)> done = [];
            foreach (var (phase, run, part) in schedule.Tasks)
            {
                Assert.All(Enumerable.Range(run.First, run.End - run.First), i => Assert.Equal(run.Device, stages[i]));
                if (phase != StepPhase.Backward)
                    for (var i = run.First; i < run.End; i++)
                    {
                        Assert.True(i == 0 || done.Contains((i - 1, false, part.Number)));
                        Assert.True(done.Add((i, false, part.Number)));
                    }
                if (phase != StepPhase.Forward)
                    for (var i = run.End - 1; i >= Math.Max(run.First, lowest); i--)
                    {
                        Assert.Contains(i + 1 < stages.Length ? (i + 1, true, part.Number) : (i, false, part.Number), done);
                        Assert.True(done.Add((i, true, part.Number)));
                    }
            }
            Assert.Equal(schedule.Parts.Count * ((2 * stages.Length) - lowest), done.Count);
            Assert.Equal(schedule.Tasks.Count, schedule.Devices.Sum(d => schedule.Of(d).Count()));
        }
    }

    /// <summary>Two stages a layer.</summary>
    private static Device[] Placed(params int[] cards) => [.. cards.SelectMany(c => new[] { Device.Cuda(c), Device.Cuda(c) })];

    private static string Text(StepTask task) => $"{task.Phase} {task.Run.Number} {task.Part.Number}";
}
