"""Cells, clients and files that harm a kernel: it survives where .NET allows, and says so; else the next one says why it ended.

Run by KernelTests.cs; a class shares one kernel.
"""

import json
import os
import re
import subprocess
import tempfile
import time
import unittest
from queue import Empty

from jupyter_client.manager import start_new_kernel
from protocol_tests import TIMEOUT, Kernel, text


def plain(lines):
    return re.sub("\x1b\\[[0-9;]*m", "", "\n".join(lines))


class Harm(Kernel):
    def alive(self):
        self.assertEqual(self.value("1 + 1"), "2")

    def fails(self, code, name, timeout=TIMEOUT):
        reply, _ = self.run_cell(code, timeout)
        self.assertEqual((reply["status"], reply.get("ename")), ("error", name), reply.get("evalue"))
        return reply["evalue"]

    def test_100_spinning_tasks_leave_room_for_an_interrupt_and_end_by_it(self):
        self.run_cell("long spins = 0;")
        msg_id = self.kc.execute('for (var i = 0; i < 100; i++) _ = Task.Run(() => { while (true) spins++; });\nConsole.WriteLine("here"); while (true) { }')
        self.until_printed(msg_id, "here")
        time.sleep(0.5)
        started = time.monotonic()
        self.control("interrupt_request")
        self.assertEqual(self.shell_reply(msg_id, timeout=20)["content"]["ename"], "Interrupted")
        print(f"  interrupt beside 100 spinning tasks: {(time.monotonic() - started) * 1000:.0f} ms")
        self.outputs(msg_id)
        self.run_cell("var before = spins; Thread.Sleep(500);")
        time.sleep(1)
        before = int(self.value("spins"))
        time.sleep(0.5)
        self.assertEqual(int(self.value("spins")), before, "the tasks spin on")

    def test_tasks_that_spin_after_their_cell_end_at_the_next_interrupt(self):
        self.run_cell("for (var i = 0; i < 100; i++) _ = Task.Run(() => { while (true) { } });")
        msg_id = self.kc.execute("while (true) { }")
        time.sleep(0.7)
        self.control("interrupt_request")
        self.assertEqual(self.shell_reply(msg_id, timeout=20)["content"]["ename"], "Interrupted")
        self.alive()

    def test_a_deleted_working_folder_is_said_and_cells_go_on(self):
        gone = tempfile.mkdtemp()
        before = self.value("Environment.CurrentDirectory").strip('"')
        self.run_cell(f'Directory.SetCurrentDirectory("{gone}");')
        os.rmdir(gone)
        reply, outputs = self.run_cell("var here = 1; here + 1")
        self.assertEqual(reply["status"], "ok", reply.get("evalue"))
        self.assertIn("working folder is no longer there", text(outputs, "stderr"))
        msg_id = self.kc.execute("while (true) { }")
        time.sleep(0.5)
        self.control("interrupt_request")
        self.assertEqual(self.shell_reply(msg_id)["content"]["ename"], "Interrupted")
        self.run_cell(f'Directory.SetCurrentDirectory("{before}");')
        self.assertEqual(text(self.run_cell("var there = 1;")[1], "stderr"), "")

    def test_200_megabytes_in_one_write_arrive_whole(self):
        msg_id = self.kc.execute("Console.Write(new string('x', 200_000_000));")
        length = 0
        while True:
            msg = self.kc.get_iopub_msg(timeout=TIMEOUT)
            if msg["parent_header"].get("msg_id") != msg_id:
                continue
            if msg["msg_type"] == "stream":
                length += len(msg["content"]["text"])
            elif msg["msg_type"] == "status" and msg["content"]["execution_state"] == "idle":
                break
        self.assertEqual(length, 200_000_000)
        self.assertEqual(self.shell_reply(msg_id)["content"]["status"], "ok")
        self.assertLess(int(self.value("GC.GetTotalMemory(true)")) >> 20, 300, "the kernel keeps the text")

    def test_what_no_front_end_can_show_is_replaced_by_a_line(self):
        _, outputs = self.run_cell("display(new string('y', 40_000_000));")
        self.assertIn("MB are not shown", text(outputs, "stderr"))
        self.alive()

    def test_an_exception_on_a_thread_of_its_own_is_shown_and_survived(self):
        for code in (
            'new Thread(() => throw new InvalidOperationException("own")).Start(); Thread.Sleep(500);',
            'ThreadPool.QueueUserWorkItem(_ => throw new InvalidOperationException("own")); Thread.Sleep(500);',
            'var timer = new Timer(_ => throw new InvalidOperationException("own"), null, 1, Timeout.Infinite); Thread.Sleep(500);',
            'async void Later() { await Task.Delay(50).ConfigureAwait(false); throw new InvalidOperationException("own"); }\nLater(); Thread.Sleep(500);',
        ):
            with self.subTest(code=code):
                reply, outputs = self.run_cell(code)
                self.assertEqual(reply["status"], "ok", reply.get("evalue"))
                self.assertRegex(text(outputs, "stderr"), "unhandled in the background: .*InvalidOperationException.*own")
                self.alive()

    def test_an_exception_in_a_finalizer_is_shown_and_survived(self):
        self.run_cell('class Bad { ~Bad() { throw new InvalidOperationException("final"); } }\nvoid Make() { new Bad(); }\nMake();')
        reply, outputs = self.run_cell("Make(); GC.Collect(); GC.WaitForPendingFinalizers(); Thread.Sleep(300);")
        self.assertEqual(reply["status"], "ok", reply.get("evalue"))
        self.assertIn("final", text(outputs, "stderr"))
        self.alive()

    def test_endless_recursion_is_an_exception(self):
        for code in (
            "int F(int n) => F(n + 1) + 1;\nF(0)",
            "int A(int n) { return B(n) + 1; }\nint B(int n) { return A(n + 1) + 1; }\nA(0)",
            "class Node { public Node Next => new Node().Next; }\nnew Node().Next",
            "class Deep { public Deep Inner; public Deep() { Inner = new Deep(); } }\nnew Deep()",
            "Func<int, int> g = null; g = n => g(n + 1) + 1;\ng(0)",
            "Action<int> h = null; h = n => h(n + 1);\nh(0);",
            "string Name { get { return Name; } }\nName",
            "async Task<int> Later(int n) => await Later(n + 1);\nawait Later(0)",
        ):
            with self.subTest(code=code):
                said = self.fails(code, "EndlessRecursionException")
                self.assertIn("calls itself too deep", said)
                self.alive()

    def test_endless_recursion_is_no_loop_where_the_call_is_the_last_act_of_code_that_has_become_fast(self):
        self.run_cell("int Down(int n) => n == 0 ? 0 : Down(n - 1);")
        for _ in range(3):
            self.run_cell("for (var i = 0; i < 1000; i++) Down(3);\nThread.Sleep(300);")
        self.fails("Down(-1)", "EndlessRecursionException")
        self.alive()

    def test_recursion_that_ends_works(self):
        for code, value in {
            "int Fib(int n) => n < 2 ? n : Fib(n - 1) + Fib(n - 2);\nFib(20)": "6765",
            "int Depth(int n) { return n == 0 ? 0 : 1 + Depth(n - 1); }\nDepth(20000)": "20000",
            "Func<int, int> fact = null; fact = n => n < 2 ? 1 : n * fact(n - 1);\nfact(6)": "720",
            "var left = 3; Action down = null; down = () => { if (left-- > 0) down(); };\ndown(); left": "-1",
            "var log = 0; Action<int> walk = null; walk = n => Step(n);\nvoid Step(int n) { log++; if (n > 0) walk(n - 1); }\nwalk(4); log": "5",
        }.items():
            with self.subTest(code=code):
                self.assertEqual(self.value(code), value)

    def test_code_that_nests_too_deep_is_refused_with_its_place(self):
        for code in (
            "(" * 50000 + "1" + ")" * 50000,
            "var a = " + "new[] {" * 5000 + "1" + "}" * 5000 + ";",
            "if (true) " * 5000 + "{ }",
            "var b = " + "!" * 20000 + "true;",
            "var c = " + '$"{' * 200 + "1" + '}"' * 200 + ";",
            "var d = " + "1 + (" * 3000 + "1" + ")" * 3000 + ";",
            "var e = true " + "? true : true " * 5000 + ";",
        ):
            with self.subTest(code=code[:30]):
                reply, _ = self.run_cell(code)
                self.assertEqual(reply["status"], "error")
                self.assertRegex(reply["evalue"], r"cell-\d+\.csx\(1,\d+\)|too complex")
                self.alive()
        self.assertEqual(self.value(" + ".join(["1"] * 3000)), "3000")

    def test_completion_inspection_and_is_complete_stand_deep_code(self):
        deep = "(" * 20000
        self.assertIn(self.shell_reply(self.kc.is_complete(deep))["content"]["status"], ("incomplete", "invalid", "unknown"))
        self.assertEqual(self.shell_reply(self.kc.complete(deep + "Cons", len(deep) + 4))["content"]["status"], "ok")
        self.assertEqual(self.shell_reply(self.kc.inspect(deep + "Console", len(deep) + 4))["content"]["status"], "ok")
        self.alive()

    def test_a_lone_surrogate_in_code_is_no_end(self):
        session = self.kc.session
        msg = session.msg("execute_request", {"code": "X", "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True})
        frames = session.serialize(msg)
        frames[-1] = frames[-1].replace(b'"X"', b'"var s = \\"\\ud800\\"; s.Length"')
        frames[1] = session.sign(frames[2:])
        self.kc.shell_channel.socket.send_multipart(frames)
        self.assertIn(self.shell_reply(msg["header"]["msg_id"])["content"]["status"], ("ok", "error"))
        self.alive()

    def test_a_replayed_message_does_not_run_again(self):
        self.run_cell("var runs = 0;")
        session = self.kc.session
        msg = session.msg("execute_request", {"code": "runs++;", "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True})
        frames = session.serialize(msg)
        for _ in range(3):
            self.kc.shell_channel.socket.send_multipart(frames)
        self.assertEqual(self.shell_reply(msg["header"]["msg_id"])["content"]["status"], "ok")
        with self.assertRaises(Empty):
            self.kc.get_shell_msg(timeout=1)
        self.assertEqual(self.value("runs"), "1")


class FirstNotebook(Kernel):
    """Notebook 01, stopped and run again as its text suggests."""

    def stopped(self, cell, after=0):
        """Stops a training cell when its picture is beyond a step; the picture of a run that goes on begins with the steps before."""
        msg_id = self.kc.execute(cell)
        while True:
            msg = self.kc.get_iopub_msg(timeout=60)
            data = msg["content"].get("data", {}).get("text/plain", "")
            self.assertNotEqual(msg["msg_type"], "error", msg["content"])
            shown = re.search(r"step ([\d,]+)/", data)
            if msg["parent_header"].get("msg_id") == msg_id and shown and int(shown[1].replace(",", "")) > after:
                break
        self.control("interrupt_request")
        self.assertEqual(self.shell_reply(msg_id, 60)["content"]["status"], "ok")
        return int(re.search(r"stopped after step (\d+) of 5000", text(self.outputs(msg_id)))[1])

    def test_a_stopped_training_goes_on_and_the_base_answers_as_before(self):
        root = os.path.dirname(os.path.abspath(__file__)).split("/tests/")[0]
        with open(os.path.join(root, "notebooks", "01-first-fine-tune.ipynb")) as file:
            cells = ["".join(c["source"]) for c in json.load(file)["cells"] if c["cell_type"] == "code"]
        cell = {word: next(c for c in cells if word in c) for word in ("string[] questions", "TrainResult result", "EvalLoss is not", "FineTuneRun.Open", "var rows", "var template", "string[] few")}
        out = os.path.join(os.environ["KT_TEST_FOLDER"], "notebook-01")
        opened = cell["FineTuneRun.Open"].replace('"overwrite_output_dir=true"', '"max_steps=5000"')
        self.assertIn("max_steps", opened)
        asks = cell["string[] questions"]
        settings = (cell["var template"], f'{cell["string[] few"]}\noutput = "{out}";')
        for code in (f'Directory.SetCurrentDirectory("{root}"); var lossBefore = 5.0;', *settings, cell["var rows"], opened):
            reply, _ = self.run_cell(code, 60)
            self.assertEqual(reply["status"], "ok", reply.get("evalue"))
        base = self.value(asks)
        first = self.stopped(cell["TrainResult result"])
        reply, _ = self.run_cell(cell["EvalLoss is not"])
        self.assertIn("run its cell again", reply["evalue"])
        self.assertEqual(self.value(asks), base, "the base model's answers are those of the trained one")
        self.assertGreater(self.stopped(cell["TrainResult result"], after=first), first)
        self.assertEqual(self.value(asks), base)


class Endings(unittest.TestCase):
    """What .NET does not survive: the kernel that Jupyter starts next says what happened, once."""

    def word_after(self, code):
        km, kc = start_new_kernel(kernel_name="ktnotebooks")
        try:
            kc.execute(code)
            km.provisioner.process.wait(20)
            kc.stop_channels()
            km.restart_kernel(now=True)
            kc = km.client()
            kc.start_channels()
            kc.wait_for_ready(timeout=TIMEOUT)
            said = []
            for cell in ("1", "2"):
                said.append("")
                kc.execute_interactive(cell, timeout=TIMEOUT, output_hook=lambda m: said.append(said.pop() + m["content"]["text"]) if m["msg_type"] == "stream" else None)
            self.assertEqual(said[1], "", "the word is said once")
            return said[0]
        finally:
            kc.stop_channels()
            km.shutdown_kernel(now=True)

    def test_environment_exit(self):
        self.assertRegex(self.word_after("Environment.Exit(3);"), r"the kernel ended while it ran cell-1\.csx \(`Environment.Exit\(3\);`\).*variables are gone")

    def test_fail_fast_and_kill(self):
        self.assertIn("the kernel ended while it ran cell-1.csx", self.word_after('Environment.FailFast("now");'))
        self.assertIn("the kernel ended while it ran cell-1.csx", self.word_after("Process.GetCurrentProcess().Kill();"))


class ConnectionFiles(unittest.TestCase):
    GOOD = {"transport": "tcp", "ip": "127.0.0.1", "shell_port": 50001, "control_port": 50002, "stdin_port": 50003, "iopub_port": 50004, "hb_port": 50005, "key": "k", "signature_scheme": "hmac-sha256"}

    def refused(self, content, says):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "connection.json")
            if content is not None:
                with open(path, "wb") as file:
                    file.write(content if isinstance(content, bytes) else json.dumps(content).encode())
            done = subprocess.run([os.environ["KT_TEST_PROGRAM"], "kernel", "run", "--connection-file", path], capture_output=True, text=True, timeout=20)
        with self.subTest(says=says):
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            self.assertIn("connection.json", done.stderr)
            self.assertIn(says, done.stderr)

    def test_each_wrong_file_is_a_line_at_once(self):
        self.refused(None, "no such file")
        self.refused(self.GOOD | {"shell_port": -1}, "shell_port: must be a port from 1 to 65535, but is -1")
        self.refused(self.GOOD | {"hb_port": 99999}, "hb_port: must be a port from 1 to 65535, but is 99999")
        self.refused(self.GOOD | {"hb_port": 0}, "hb_port")
        self.refused(self.GOOD | {"iopub_port": "50004"}, 'iopub_port: must be a port from 1 to 65535, but is "50004"')
        self.refused(self.GOOD | {"iopub_port": 50001}, "iopub_port: is 50001, as shell_port is")
        self.refused({k: v for k, v in self.GOOD.items() if k != "stdin_port"}, "stdin_port: is missing")
        self.refused(self.GOOD | {"transport": "udp"}, "transport")
        self.refused(self.GOOD | {"key": 5}, "key: must be a text")
        self.refused(self.GOOD | {"signature_scheme": "md5"}, "signature_scheme")
        self.refused(b"{ not json", "connection.json")
        self.refused(b"\xff\xfe\x00", "connection.json")
        self.refused([1], "must be a JSON object")
        self.refused(b"[" * 100000, "connection.json")


if __name__ == "__main__":
    unittest.main(verbosity=2)
