"""Executes one notebook as a notebook server does: through jupyter_client and nbclient, in the notebook's folder.

Arguments: the notebook, where the executed copy goes, the kernel's name. Reports to JupyterRunner.cs on standard output, one JSON object a line:
{"cell": n, "cells": of} when a code cell starts, and at the end {"error": null or text, "cell": n, "peak": bytes of the kernel or null}.
When standard input ends, because kt was stopped or is gone, the kernel is shut down and the run ends.
"""

import json
import os
import re
import signal
import sys
import threading

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

source, target, kernel = sys.argv[1:]
os.setsid()  # Ctrl-C in the terminal goes to kt alone, which then ends our standard input


def report(**fields):
    print(json.dumps(fields), flush=True)


stopping = False


def stop_with_kt():
    global stopping
    sys.stdin.read()
    stopping = True
    os.kill(os.getpid(), signal.SIGTERM)  # nbclient shuts the kernel down


threading.Thread(target=stop_with_kt, daemon=True).start()
notebook = nbformat.read(source, as_version=4)
code_cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
at = 0
peak = None


def started(cell, cell_index):
    global at
    if cell in code_cells:
        at += 1
        report(cell=at, cells=len(code_cells))


def completed(cell, cell_index):
    """VmHWM is the most memory that the process has held; Linux only."""
    global peak
    try:
        with open(f"/proc/{client.km.provisioner.pid}/status") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024
    except (OSError, AttributeError, TypeError):
        pass


client = NotebookClient(
    notebook,
    timeout=None,
    kernel_name=kernel,
    resources={"metadata": {"path": os.path.dirname(os.path.abspath(source))}},
    on_cell_execute=started,
    on_cell_complete=completed,
)
error = None
try:
    client.execute()
except CellExecutionError as failure:
    error = f"{failure.ename}: {failure.evalue}"
except DeadKernelError:
    error = "the kernel died"
if stopping:
    sys.exit(130)
nbformat.write(notebook, target + ".tmp")
os.replace(target + ".tmp", target)
report(error=error, cell=at, peak=peak)
