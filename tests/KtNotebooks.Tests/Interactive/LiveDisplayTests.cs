using KtNotebooks.Interactive;
using KtNotebooks.Lora;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tests.Training;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

public class LiveDisplayTests
{
    [Fact]
    public void Routing_is_a_row_a_layer_in_their_order_with_the_last_steps_shares()
    {
        using var view = new RoutingView();
        for (var step = 1; step <= 40; step++)
            view.Update(step, new Dictionary<string, long[]> { ["model.layers.10.mlp"] = [8, 0, 0, 0], ["model.layers.2.mlp"] = [2, 2, 2, 2] });
        var text = view.Show().Text;
        Assert.Contains("step 40 · busiest 4 × its share · 3 of 8 experts without a token", text, StringComparison.Ordinal);
        Assert.True(text.IndexOf("\n2 ", StringComparison.Ordinal) is var two && text.IndexOf("\n10", StringComparison.Ordinal) is var ten
            && (two < 0 ? text.IndexOf(" 2 ", StringComparison.Ordinal) : two) < ten, text);
    }

    /// <summary>A clock that moves when told; timers fire on the thread that moves it.</summary>
    private sealed class Clock : TimeProvider
    {
        private readonly List<Timer> _timers = [];
        private long _now;

        public override long TimestampFrequency => TimeSpan.TicksPerSecond;

        public override long GetTimestamp() => _now;

        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
        {
            var timer = new Timer(this, () => callback(state));
            timer.Change(dueTime, period);
            _timers.Add(timer);
            return timer;
        }

        public void Advance(int milliseconds)
        {
            for (var i = 0; i < milliseconds; i++)
            {
                _now += TimeSpan.TicksPerMillisecond;
                foreach (var timer in _timers) timer.Fire(_now);
            }
        }

        private sealed class Timer(Clock clock, Action callback) : ITimer
        {
            private long? _due;

            public bool Change(TimeSpan dueTime, TimeSpan period)
            {
                _due = dueTime == Timeout.InfiniteTimeSpan ? null : clock._now + dueTime.Ticks;
                return true;
            }

            public void Fire(long now)
            {
                if (_due is not { } due || due > now) return;
                _due = null;
                callback();
            }

            public void Dispose() => _due = null;

            public ValueTask DisposeAsync()
            {
                Dispose();
                return default;
            }
        }
    }

    private sealed class Host : IDisplayHost
    {
        public List<(string? Id, MimeBundle Bundle, bool Update)> Sent { get; } = [];
        public bool Broken { get; set; }

        public void Show(MimeBundle bundle, string? displayId) => Sent.Add((displayId, bundle, false));

        public void Update(MimeBundle bundle, string displayId)
        {
            if (Broken) throw new IOException("socket closed");
            Sent.Add((displayId, bundle, true));
        }
    }

    [Fact]
    public void Updates_go_out_four_times_a_second_in_place_and_the_last_state_always()
    {
        var (clock, host, state) = (new Clock(), new Host(), 0);
        using (var live = new LiveDisplay(final => new($"{state}{(final ? " final" : "")}"), host: host, time: clock))
        {
            for (state = 1; state <= 900; state++)
            {
                live.Changed();
                clock.Advance(1);
            }
            Assert.Equal(1 + 3, host.Sent.Count); // at 0, 250, 500, 750 ms
            clock.Advance(500); // nobody calls any more: the state after the last send still goes out
            Assert.Equal("901", host.Sent[^1].Bundle.Text);
            var before = host.Sent.Count;
            clock.Advance(5000);
            Assert.Equal(before, host.Sent.Count);
            live.Changed();
            state = 7;
        }
        Assert.Equal("7 final", host.Sent[^1].Bundle.Text);
        Assert.Single(host.Sent, s => !s.Update);
        Assert.Single(host.Sent.Select(s => s.Id).Distinct());
        Assert.NotNull(host.Sent[0].Id);
        clock.Advance(1000);
        Assert.EndsWith("final", host.Sent[^1].Bundle.Text);
    }

    [Fact]
    public void A_slow_step_is_shown_at_once_after_a_pause()
    {
        var (clock, host) = (new Clock(), new Host());
        using var live = new LiveDisplay(_ => new("x"), host: host, time: clock);
        clock.Advance(10_000);
        live.Changed();
        clock.Advance(1);
        Assert.Equal(2, host.Sent.Count);
    }

    [Fact]
    public void A_broken_host_does_not_stop_the_work()
    {
        var (clock, host) = (new Clock(), new Host());
        var live = new LiveDisplay(_ => new("x"), host: host, time: clock);
        host.Broken = true;
        live.Changed();
        clock.Advance(300);
        live.Changed();
        clock.Advance(300);
        live.Dispose();
        Assert.Equal("socket closed", live.Failure?.Message);
    }

    [Fact]
    public void A_view_of_a_run_that_goes_on_shows_the_steps_before_and_leaves_it_at_its_end()
    {
        using var folder = new Samples.Folder();
        using var model = TinyRun.Model(new LoraSettings(3));
        var trainer = TinyRun.Trainer(model, new TrainSettings { OutputDir = folder.Path + "/out", SaveSteps = 0 }, new LoraSettings(3), evaluate: true);
        using var stop = new CancellationTokenSource();
        trainer.OnStep += s =>
        {
            if (s.Step == 3) stop.Cancel();
        };
        var host = new Host();
        using (new TrainingView("run", host: host, time: new Clock()).Follow(trainer)) trainer.Run(stop.Token);
        Assert.Contains("step 3/6", host.Sent[^1].Bundle.Text);
        using (new TrainingView("run", host: host, time: new Clock()).Follow(trainer)) trainer.Run(TestContext.Current.CancellationToken);
        var (text, sent) = (host.Sent[^1].Bundle.Text, host.Sent.Count);
        Assert.Contains("step 6/6", text);
        Assert.Contains("6 points", text);
        Assert.Contains("eval: 1 point,", text);
        using (new TrainingView("run", host: host, time: new Clock()).Follow(trainer)) trainer.Run(TestContext.Current.CancellationToken); // ended
        Assert.Equal(text, host.Sent[^1].Bundle.Text);
    }

    [Fact]
    public void A_training_view_ends_with_all_forms_and_its_status_line()
    {
        var (clock, host) = (new Clock(), new Host());
        using (var view = new TrainingView("run", host: host, time: clock))
        {
            for (var step = 1; step <= 20; step++)
            {
                view.Update(step, 40, 4.0 / step, 1e-4, 7812, TimeSpan.FromSeconds(step), TimeSpan.FromSeconds(40 - step));
                clock.Advance(100);
            }
            view.UpdateEval(20, 0.5);
        }
        Assert.InRange(host.Sent.Count, 7, 11);
        var last = host.Sent[^1].Bundle;
        Assert.Equal(["application/vnd.plotly.v1+json", "image/png", "image/svg+xml", "text/plain"], last.Data.Keys.Order());
        Assert.Equal(640, (double)last.Metadata["image/png"]["width"]!);
        Assert.Contains("step 20/40 · loss 0.2 · lr 1e-4 · 7,812 tokens/s · 0:00:20 elapsed, 0:00:20 left", last.Text);
        Assert.Contains("eval: 1 point,", last.Text);
    }

    [Fact]
    public void A_live_chart_grows_from_many_threads()
    {
        var host = new Host();
        using (var live = new LiveChart("norm", interval: TimeSpan.FromMilliseconds(1), host: host))
            Parallel.For(0, 1000, i => live.Add("n", i, i));
        Assert.Contains("n: 1000 points", host.Sent[^1].Bundle.Text);
    }
}

/// <summary>Outside a notebook. Alone, since the console belongs to the whole process.</summary>
[CollectionDefinition("Console", DisableParallelization = true)]
public class ConsoleCollection;

[Collection("Console")]
public class LiveDisplayConsoleTests
{
    [Fact]
    public void Outside_a_notebook_only_the_final_text_is_printed()
    {
        var (console, host) = (Console.Out, Display.Host);
        var printed = new StringWriter();
        try
        {
            Display.Host = null;
            Console.SetOut(printed);
            using (var live = new LiveDisplay(final => new(final ? "the end" : "on the way")))
            {
                live.Changed();
                Assert.Empty(printed.ToString());
            }
        }
        finally
        {
            Console.SetOut(console);
            Display.Host = host;
        }
        Assert.Equal("the end", printed.ToString().Trim());
    }
}
