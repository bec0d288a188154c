"""Jupyter's own conformance suite (jupyter_kernel_test), with every knob filled for our kernel.

Run by KernelTests.cs, which installs the kernel under a temporary JUPYTER_PATH.
"""

import unittest

import jupyter_kernel_test


class KtNotebooksKernelTests(jupyter_kernel_test.KernelTests):
    kernel_name = "ktnotebooks"
    language_name = "C#"
    file_extension = ".cs"
    code_hello_world = 'Console.WriteLine("hello, world");'
    code_stderr = 'Console.Error.WriteLine("oh no");'
    completion_samples = [
        {"text": "Console.WriteL", "matches": {"WriteLine"}},
        {"text": '"text".ToUpperI', "matches": {"ToUpperInvariant"}},
        {"text": "Enumerable.Rang", "matches": {"Range"}},
        {"text": "new[] { 1 }.SelectM", "matches": {"SelectMany"}},
        {"text": "#!lsm", "matches": {"lsmagic"}},
    ]
    complete_code_samples = ["1 + 1", "var x = 1;", "int F(int a) { return a; }", "#!time\n1"]
    incomplete_code_samples = ["if (true) {", "int F(int a) {\n    return a;", "Console.WriteLine("]
    invalid_code_samples = ["int 1x = 2;", "} 1"]
    code_page_something = "#!help"
    code_generate_error = 'throw new InvalidOperationException("on purpose");'
    code_execute_result = [
        {"code": "6 * 7", "result": "42"},
        {"code": '"résumé 🚀"', "result": "résumé 🚀"},
        {"code": 'HTML("<b>bold</b>")', "mime": "text/html", "result": "<b>bold</b>"},
        {"code": "Enumerable.Range(1, 3)", "result": "[ 1, 2, 3 ]"},
    ]
    code_display_data = [
        {"code": 'display(HTML("<i>x</i>"));', "mime": "text/html"},
        {"code": '"**bold**".DisplayAs("text/markdown");', "mime": "text/markdown"},
    ]
    supported_history_operations = ("tail", "range", "search")
    code_history_pattern = "6 ?*7"
    code_inspect_sample = "Console.WriteLine"
    code_clear_output = "ClearOutput();"


if __name__ == "__main__":
    unittest.main(verbosity=2)
