"""What jupyter_kernel_test leaves out: interrupts, signatures, control, queues, displays, cursors, restart.

Run by KernelTests.cs, one process for all; a class shares one kernel.
"""

import hashlib
import hmac
import json
import os
import re
import signal
import time
import unittest
from queue import Empty

import nbformat
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TIMEOUT = 30


class Kernel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.km, cls.kc = start_new_kernel(kernel_name="ktnotebooks")

    @classmethod
    def tearDownClass(cls):
        cls.kc.stop_channels()
        cls.km.shutdown_kernel(now=True)

    def shell_reply(self, msg_id, timeout=TIMEOUT):
        while True:
            reply = self.kc.get_shell_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == msg_id:
                return reply

    def outputs(self, msg_id, timeout=TIMEOUT):
        """All iopub messages of a request up to and including idle."""
        found = []
        while True:
            msg = self.kc.get_iopub_msg(timeout=timeout)
            if msg["parent_header"].get("msg_id") != msg_id:
                continue
            found.append(msg)
            if msg["msg_type"] == "status" and msg["content"]["execution_state"] == "idle":
                return found

    def run_cell(self, code, timeout=TIMEOUT, **options):
        msg_id = self.kc.execute(code, **options)
        reply = self.shell_reply(msg_id, timeout)
        return reply["content"], self.outputs(msg_id, timeout)

    def value(self, code):
        reply, outputs = self.run_cell(code)
        self.assertEqual(reply["status"], "ok", reply.get("evalue"))
        return next(m["content"]["data"]["text/plain"] for m in outputs if m["msg_type"] == "execute_result")

    def control(self, msg_type, content=None, timeout=5):
        msg = self.kc.session.msg(msg_type, content or {})
        self.kc.control_channel.send(msg)
        while True:
            reply = self.kc.get_control_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == msg["header"]["msg_id"]:
                return reply

    def until_printed(self, msg_id, line, timeout=60):
        while True:
            msg = self.kc.get_iopub_msg(timeout=timeout)
            if msg["parent_header"].get("msg_id") == msg_id and msg["msg_type"] == "stream" and line in msg["content"]["text"]:
                return


def types(outputs):
    return [m["msg_type"] for m in outputs]


def text(outputs, name="stdout"):
    return "".join(m["content"]["text"] for m in outputs if m["msg_type"] == "stream" and m["content"]["name"] == name)


class Interrupts(Kernel):
    """Every way to be stuck ends within seconds as the error Interrupted; variables are intact, also those of the stuck cell itself."""

    STUCK = {
        "busy loop": "while (true) { x++; }",
        "loop that swallows exceptions": "while (true) { try { while (true) x++; } catch (Exception) { } }",
        "loop with finally": "try { while (true) x++; } finally { ran = true; }",
        "sleep": "Thread.Sleep(60000);",
        "wait": "new ManualResetEvent(false).WaitOne();",
        "await delay": "await Task.Delay(60000);",
        "await, then loop": "await Task.Yield(); while (true) x++;",
        "blocked on a task": "Task.Run(() => { while (!stop) x++; }).Wait();",
        "parallel": "Parallel.For(0, int.MaxValue, i => { if (!stop) Thread.SpinWait(1000); });",
        "lock": "var held = new object(); var taken = new ManualResetEventSlim();\n"
        "new Thread(() => { lock (held) { taken.Set(); Thread.Sleep(8000); } }) { IsBackground = true }.Start();\n"
        "taken.Wait(); lock (held) { }",
        "token": "while (true) { Cancel.ThrowIfCancellationRequested(); Thread.Sleep(10); }",
        "printing": "while (true) Console.WriteLine(x++);",
    }

    def test_every_kind_of_stuck_cell_stops(self):
        self.assertEqual(self.run_cell("long x = 0; bool ran = false; volatile bool stop = false;".replace("volatile ", ""))[0]["status"], "ok")
        for kind, code in self.STUCK.items():
            with self.subTest(kind=kind):
                msg_id = self.kc.execute(f'stop = false; var mine = "{kind}"; Console.WriteLine("here");\n{code}')
                self.until_printed(msg_id, "here")  # a cell that is still compiled on a busy machine is not stuck yet
                time.sleep(0.3)
                started = time.monotonic()
                self.assertEqual(self.control("interrupt_request")["content"]["status"], "ok")
                self.assertLess(time.monotonic() - started, 1, "control must answer at once")
                reply = self.shell_reply(msg_id, timeout=8)["content"]
                took = time.monotonic() - started
                self.assertEqual((reply["status"], reply["ename"]), ("error", "Interrupted"))
                self.assertLess(took, 4)
                print(f"  interrupt of {kind}: {took * 1000:.0f} ms")
                self.outputs(msg_id)
                self.run_cell("stop = true;")
                self.assertEqual(self.value("mine"), kind)
        self.assertEqual(self.value("ran"), "True")
        self.assertGreater(int(self.value("x")), 1000)

    def test_an_interrupt_of_an_idle_kernel_changes_nothing(self):
        self.control("interrupt_request")
        self.assertEqual(self.value("1 + 1"), "2")

    def test_sigint_interrupts_the_cell_and_not_the_process(self):
        msg_id = self.kc.execute("while (true) { }")
        time.sleep(0.5)
        os.kill(self.km.provisioner.pid, signal.SIGINT)
        self.assertEqual(self.shell_reply(msg_id)["content"]["ename"], "Interrupted")
        self.assertEqual(self.value("1 + 1"), "2")

    def test_polite_code_may_finish_its_step(self):
        msg_id = self.kc.execute("var steps = 0; while (!Cancel.IsCancellationRequested) { Thread.Sleep(300); steps++; }\nsteps > 0")
        time.sleep(1)
        self.control("interrupt_request")
        self.assertEqual(self.shell_reply(msg_id)["content"]["status"], "ok")
        self.assertEqual(self.value("steps > 0"), "True")

    def test_the_old_way_to_see_an_interrupt_works(self):
        msg_id = self.kc.execute(
            "using Microsoft.DotNet.Interactive;\nvar token = KernelInvocationContext.Current.CancellationToken;\n"
            "while (!token.IsCancellationRequested) await Task.Delay(20);\n\"left\""
        )
        time.sleep(0.7)
        self.control("interrupt_request")
        self.assertEqual(self.shell_reply(msg_id)["content"]["status"], "ok")


class Protocol(Kernel):
    def test_control_answers_while_a_cell_runs(self):
        msg_id = self.kc.execute("Thread.Sleep(2000);")
        started = time.monotonic()
        self.assertEqual(self.control("kernel_info_request")["content"]["language_info"]["name"], "C#")
        self.assertLess(time.monotonic() - started, 1)
        self.assertTrue(self.kc.hb_channel.is_beating())
        self.assertEqual(self.shell_reply(msg_id)["content"]["status"], "ok")

    def test_a_bad_signature_is_ignored_and_the_next_message_served(self):
        session = self.kc.session
        key, session.key = session.key, b"not the key"
        forged = self.kc.execute("Console.WriteLine(\"forged\");")
        session.key = key
        _, outputs = self.run_cell("Console.WriteLine(\"good\");")
        self.assertEqual(text(outputs), "good\n")
        with self.assertRaises(Empty):
            while True:
                self.assertNotEqual(self.kc.get_shell_msg(timeout=0.3)["parent_header"].get("msg_id"), forged)

    def test_silent_cells_leave_no_trace(self):
        before = self.value("1")
        count = self.run_cell("var zero = 0;")[0]["execution_count"]
        reply, outputs = self.run_cell("Console.WriteLine(1); var quiet = 5; 2", silent=True)
        self.assertEqual((reply["status"], reply["execution_count"]), ("ok", count))
        self.assertEqual(types(outputs), ["status", "status"])
        self.assertEqual(self.value("quiet"), "5")
        self.assertEqual(before, "1")

    def test_store_history_false_keeps_the_counter(self):
        count = self.run_cell("var zero = 0;")[0]["execution_count"]
        self.assertEqual(self.run_cell("var one = 1;", store_history=False)[0]["execution_count"], count)
        self.assertEqual(self.run_cell("var two = 2;")[0]["execution_count"], count + 1)

    def test_an_error_aborts_what_is_queued(self):
        ids = [self.kc.execute(c) for c in ("Thread.Sleep(300); throw new Exception(\"stop here\");", "var late = 1;", "late")]
        replies = [self.shell_reply(i)["content"]["status"] for i in ids]
        self.assertEqual(replies, ["error", "aborted", "aborted"])
        self.assertEqual(self.value("1 + 1"), "2")

    def test_without_stop_on_error_the_queue_goes_on(self):
        ids = [self.kc.execute(c, stop_on_error=False) for c in ("throw new Exception(\"go on\");", "40 + 2")]
        self.assertEqual([self.shell_reply(i)["content"]["status"] for i in ids], ["error", "ok"])

    def test_every_request_is_between_busy_and_idle(self):
        for send in (self.kc.kernel_info, lambda: self.kc.complete("x"), lambda: self.kc.history(hist_access_type="tail", n=1), self.kc.comm_info):
            states = [m["content"]["execution_state"] for m in self.outputs(send()) if m["msg_type"] == "status"]
            self.assertEqual(states, ["busy", "idle"])

    def test_unknown_requests_and_comms_are_answered_without_harm(self):
        for msg_type, content in (("no_such_request", {}), ("comm_open", {"comm_id": "c1", "target_name": "jupyter.widget", "data": {}})):
            msg = self.kc.session.msg(msg_type, content)
            self.kc.shell_channel.send(msg)
            outputs = self.outputs(msg["header"]["msg_id"])
            self.assertEqual("comm_close" in types(outputs), msg_type == "comm_open")
        self.assertEqual(self.shell_reply(self.kc.comm_info())["content"]["comms"], {})

    def test_user_expressions(self):
        self.run_cell("var seven = 7;")
        reply, _ = self.run_cell("var one = 1;", user_expressions={"a": "seven * 6", "b": "nothing_here"})
        self.assertEqual(reply["user_expressions"]["a"]["data"]["text/plain"], "42")
        self.assertEqual(reply["user_expressions"]["b"]["ename"], "CompilationError")

    def test_cursor_positions_count_code_points(self):
        code = 'var s = "🚀🚀"; s.Leng'
        reply = self.shell_reply(self.kc.complete(code, len(code)))["content"]
        self.assertEqual((reply["matches"], reply["cursor_start"], reply["cursor_end"]), (["Length"], len(code) - 4, len(code)))
        reply = self.shell_reply(self.kc.inspect(code, len(code) - 6))["content"]
        self.assertIn("string s", reply["data"]["text/plain"])

    def test_inspection_shows_signature_and_documentation(self):
        self.run_cell("int Doubled(int x) => 2 * x;")
        self.assertIn("int Doubled(int x)", self.shell_reply(self.kc.inspect("Doubled(3)", 3))["content"]["data"]["text/plain"])
        self.assertFalse(self.shell_reply(self.kc.inspect("no_such_name", 3))["content"]["found"])

    def test_input(self):
        msg_id = self.kc.execute('var name = input("who? "); name + Console.ReadLine()', allow_stdin=True)
        asked = self.kc.get_stdin_msg(timeout=TIMEOUT)
        self.assertEqual(asked["content"], {"prompt": "who? ", "password": False})
        self.kc.input("Ann")
        self.kc.get_stdin_msg(timeout=TIMEOUT)
        self.kc.input("a")
        self.assertEqual(self.shell_reply(msg_id)["content"]["status"], "ok")
        self.assertEqual(self.value("name"), "Ann")

    def test_input_is_refused_where_nobody_can_answer(self):
        reply, _ = self.run_cell("Console.ReadLine();", allow_stdin=False)
        self.assertEqual(reply["ename"], "NotSupportedException")

    def test_a_cell_that_waits_for_input_can_be_interrupted(self):
        msg_id = self.kc.execute("input(\"?\");", allow_stdin=True)
        self.kc.get_stdin_msg(timeout=TIMEOUT)
        self.control("interrupt_request")
        self.assertEqual(self.shell_reply(msg_id)["content"]["ename"], "Interrupted")


class Output(Kernel):
    def test_2000_small_prints_are_few_messages(self):
        reply, outputs = self.run_cell('for (var i = 0; i < 2000; i++) Console.Write($"{i} ");')
        self.assertEqual(text(outputs), "".join(f"{i} " for i in range(2000)))
        self.assertLess(types(outputs).count("stream"), 20)

    def test_5_megabytes_arrive_whole(self):
        _, outputs = self.run_cell("Console.Write(new string('x', 5_000_000));")
        self.assertEqual(len(text(outputs)), 5_000_000)

    def test_streams_keep_their_order_with_displays(self):
        _, outputs = self.run_cell('Console.Write(1); Console.Error.Write(2); display("3"); Console.Write(4);')
        self.assertEqual([t for t in types(outputs) if t in ("stream", "display_data")], ["stream", "stream", "display_data", "stream"])

    def test_a_display_is_updated_in_place(self):
        _, outputs = self.run_cell('var shown = display("first"); shown.Update("second");')
        first, second = (m["content"] for m in outputs if m["msg_type"].endswith("display_data"))
        self.assertEqual(first["transient"]["display_id"], second["transient"]["display_id"])
        self.assertEqual((first["data"]["text/plain"], second["data"]["text/plain"]), ("first", "second"))
        _, outputs = self.run_cell('shown.Update("third");')
        self.assertIn("update_display_data", types(outputs), "an update from a later cell")

    def test_late_prints_go_to_the_cell_that_started_them(self):
        msg_id = self.kc.execute('_ = Task.Run(async () => { await Task.Delay(600); Console.Write("late"); });')
        self.shell_reply(msg_id)
        self.kc.execute("Thread.Sleep(1000);")
        msg = self.kc.get_iopub_msg(timeout=3)
        while msg["msg_type"] != "stream":
            msg = self.kc.get_iopub_msg(timeout=3)
        self.assertEqual((msg["parent_header"]["msg_id"], msg["content"]["text"]), (msg_id, "late"))

    def test_formatters_follow_the_most_specific_registration(self):
        self.run_cell(
            "using Microsoft.DotNet.Interactive.Formatting;\nclass Animal { } class Cat : Animal { }\n"
            'Formatter.Register<Animal>(a => "animal"); Formatter.Register<Cat>(c => "cat"); Formatter.Register<Animal>(a => "later animal");\n'
            'Formatter.SetPreferredMimeTypesFor(typeof(Animal), "text/plain");'
        )
        self.assertEqual(self.value("new Cat()"), "cat")
        self.assertEqual(self.value("new Animal()"), "later animal")

    def test_objects_are_tables_and_text(self):
        _, outputs = self.run_cell("new[] { new { Name = \"<a>\", Age = 3 } }")
        data = next(m["content"]["data"] for m in outputs if m["msg_type"] == "execute_result")
        self.assertIn("<code>{ Name = &lt;a&gt;, Age = 3 }</code>", data["text/html"])
        self.assertIn("Age: 3", data["text/plain"])


class Language(Kernel):
    def test_errors_show_the_users_lines(self):
        self.run_cell("int Half(int n)\n{\n    return 10 / n;\n}")
        reply, outputs = self.run_cell("var before = 1;\nHalf(0);")
        self.assertEqual((reply["ename"], types(outputs).count("error")), ("DivideByZeroException", 1))
        trace = re.sub("\x1b\\[[0-9;]*m", "", "\n".join(reply["traceback"]))
        self.assertIn(":3 Half()\n        return 10 / n;", trace)
        self.assertIn(":2 top level\n    Half(0);\n    ^", trace)
        self.assertNotIn("System.", trace)
        self.assertEqual(self.value("before"), "1", "what a failed cell had declared stays")

    def test_compile_errors_are_one_error_with_a_caret_and_a_hint(self):
        reply, outputs = self.run_cell("var a = 1;\nusing var stream = new MemoryStream();")
        self.assertEqual((reply["ename"], [t for t in types(outputs) if t in ("error", "stream")]), ("CompilationError", ["error"]))
        self.assertIn("hint", "\n".join(reply["traceback"]))

    def test_redeclared_variables_free_what_they_held(self):
        for _ in range(6):
            self.assertEqual(self.run_cell("var big = new byte[100_000_000]; Array.Fill(big, (byte)1);")[0]["status"], "ok")
        self.assertLess(int(self.value("GC.GetTotalMemory(true)")), 250_000_000)
        self.run_cell("var big = 1;")
        self.assertLess(int(self.value("GC.GetTotalMemory(true)")), 90_000_000)

    def test_classes_and_variables_can_be_defined_again(self):
        self.run_cell("class Net { public int Size => 1; } var net = new Net();")
        self.run_cell("class Net { public int Size => 2; } var net = new Net();")
        self.assertEqual(self.value("net.Size"), "2")

    def test_await_usings_and_locals_of_every_kind_work(self):
        for code, value in {
            "await Task.FromResult(3)": "3",
            "record Point(int X, int Y); new Point(1, 2)": "Point\n      X: 1\n      Y: 2",
            "static int Plus(this int x) => x + 1; 1.Plus()": "2",
            "int[] xs = [1, 2, 3]; xs is [1, .., var last] ? last : 0": "3",
            "{ Span<int> s = stackalloc int[2]; s[1] = 5; }\nPath.GetExtension(\"a.bc\")": ".bc",
            "return 7;": "7",
            "var größe = 2; größe": "2",
        }.items():
            with self.subTest(code=code):
                self.assertEqual(self.value(code), value)

    def test_void_calls_and_statements_have_no_value(self):
        for code in ("Console.Write(1)", "var x = 1;", "await Task.Delay(1)", ""):
            self.assertNotIn("execute_result", types(self.run_cell(code)[1]), code)

    def test_magics(self):
        self.assertIn("Wall time", json.dumps(self.run_cell("#!time\nvar t = 1;")[1], default=str))
        shown = next(m["content"]["data"] for m in self.run_cell("#!whos\nvar made = 5;")[1] if m["msg_type"] == "display_data")
        self.assertIn("| t | Int32 | 1 |", shown["text/markdown"])
        self.assertIn("| made | Int32 | 5 |", shown["text/markdown"], "it comes after its cell")
        self.assertEqual(self.run_cell("#!fsharp\nlet x = 1")[0]["ename"], "NotSupportedException")
        self.assertEqual(self.run_cell("#!nonsense")[0]["ename"], "ArgumentException")
        self.assertEqual(self.value('var raw = """\n#!time\n""";\nraw'), "#!time")

    def test_load_runs_a_script(self):
        path = os.path.join(os.environ["KT_TEST_FOLDER"], "part.csx")
        with open(path, "w") as file:
            file.write("int FromFile() => 12;")
        self.assertEqual(self.value(f'#load "{path}"\nFromFile()'), "12")

    def test_300_cells_stay_fast_and_small(self):
        def resident():
            return int(self.value("Environment.WorkingSet")) >> 20

        self.run_cell("var zero = 0;")
        before, started = resident(), time.monotonic()
        for i in range(300):
            self.run_cell(f"var v{i} = {i}; int F{i}(int x) => x + v{i}; F{i}(1)")
        ms = (time.monotonic() - started) * 1000 / 300
        rss = resident()
        print(f"  {ms:.0f} ms a cell, {rss} MB resident after 300 cells, {before} MB before")
        self.assertLess(rss - before, 150, "what the cells left")
        self.assertLess(rss, 600, "of a kernel that all of these tests have used")


class Life(unittest.TestCase):
    def test_restart_gives_a_fresh_session(self):
        km, kc = start_new_kernel(kernel_name="ktnotebooks")
        kc.execute_interactive("var kept = 1;", timeout=TIMEOUT)
        kc.stop_channels()
        km.restart_kernel()
        kc = km.client()
        kc.start_channels()
        kc.wait_for_ready(timeout=TIMEOUT)
        self.assertEqual(kc.execute_interactive("kept", timeout=TIMEOUT, output_hook=lambda _: None)["content"]["ename"], "CompilationError")
        kc.stop_channels()
        km.shutdown_kernel()

    def test_shutdown_is_orderly_also_from_a_busy_cell(self):
        km, kc = start_new_kernel(kernel_name="ktnotebooks")
        kc.execute("while (true) { }")
        time.sleep(0.5)
        process = km.provisioner.process
        started = time.monotonic()
        msg = kc.session.msg("shutdown_request", {"restart": False})
        kc.control_channel.send(msg)
        self.assertEqual(kc.get_control_msg(timeout=5)["content"], {"status": "ok", "restart": False})
        self.assertEqual(process.wait(5), 0)
        self.assertLess(time.monotonic() - started, 3)
        kc.stop_channels()
        km.shutdown_kernel(now=True)

    def test_ready_in_time(self):
        times = []
        for _ in range(3):
            started = time.monotonic()
            km, kc = start_new_kernel(kernel_name="ktnotebooks")
            times.append(time.monotonic() - started)
            kc.execute_interactive("1 + 1", timeout=TIMEOUT, output_hook=lambda _: None)
            cell = time.monotonic() - started
            kc.stop_channels()
            km.shutdown_kernel(now=True)
        print(f"  ready after {min(times):.2f} s at best, first cell done after {cell:.2f} s")
        self.assertLess(min(times), 2)

    def test_nbclient_interrupts_a_cell_that_takes_too_long(self):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in ("var a = 1;", "while (true) { }", "a")])
        client = NotebookClient(nb, kernel_name="ktnotebooks", timeout=4, interrupt_on_timeout=True, allow_errors=True)
        client.execute()
        self.assertEqual(nb.cells[1].outputs[0].ename, "Interrupted")
        self.assertEqual(nb.cells[2].outputs[0].data["text/plain"], "1")
        nbformat.validate(nb)

    def test_nbclient_stops_at_the_first_error(self):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("throw new Exception(\"here\");")])
        with self.assertRaises(CellExecutionError):
            NotebookClient(nb, kernel_name="ktnotebooks").execute()


if __name__ == "__main__":
    unittest.main(verbosity=2)
