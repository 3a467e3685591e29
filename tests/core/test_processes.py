"""Processes of this machine."""

from __future__ import annotations

import os

import pytest

from ray_pipeline_core import processes


def test_machine_is_looked_up_once_in_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    here = processes.machine_id()
    monkeypatch.setattr(processes, "_read_file", lambda path: "another boot")
    assert processes.machine_id() == here
    if (child := os.fork()) == 0:
        os._exit(processes.machine_id() == here)  # it may be in another PID namespace
    assert os.waitpid(child, 0)[1] == 0
