"""What SIGTERM does after Ray has connected, also if the run that waited for it was stopped meanwhile: without Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, os, signal, sys, threading, time
from ray_pipeline_core.ray_backend.sigterm import sigterm_handler_kept

ACTIONS = {"default": signal.SIG_DFL, "ignored": signal.SIG_IGN, "handler": lambda *_: print("handled", flush=True)}
before, after = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
begun, go_on = threading.Event(), threading.Event()

def connect():
    with sigterm_handler_kept():
        begun.set()
        go_on.wait()
        ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(0 if after == "ignored" else 1))

signal.signal(signal.SIGTERM, ACTIONS[before])
thread = threading.Thread(target=connect)
thread.start()
begun.wait()
signal.signal(signal.SIGTERM, ACTIONS[after])
go_on.set()
thread.join()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
print("alive", flush=True)
"""


@pytest.mark.parametrize("before", ["default", "ignored", "handler"])
@pytest.mark.parametrize(
    ("after", "code", "output"),
    [("default", -signal.SIGTERM, ""), ("ignored", 0, "alive\n"), ("handler", 0, "handled\nalive\n")],
)
def test_signal_does_what_was_last_set_before_ray_had_connected(
    before: str, after: str, code: int, output: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, before, after],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, output, "")
