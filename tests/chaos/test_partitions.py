"""Nodes that can't be reached although their workers go on: their raylets are stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.ray_backend import worker_location
from ray_pipeline_core.worker.attempt_guard import RECHECK_AFTER_S
from tests.chaos import steps
from tests.chaos.background_run import BackgroundRun
from tests.chaos.conftest import NodeFactory
from tests.support.executors import ExecutorFactory
from tests.support.steps import read_reports
from tests.support.waiting import wait_for

ON_SPOT = {"resources": {"spot": 1}}


@pytest.fixture
def cut_off() -> Iterator[Callable[[Any], None]]:
    """A function that stops the raylet of a node; after the test it goes on, learns that it is dead, and ends."""
    stopped: list[int] = []

    def stop(node: Any) -> None:
        stopped.append(node.all_processes["raylet"][0].process.pid)
        os.kill(stopped[-1], signal.SIGSTOP)

    yield stop
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def attempts(
    make_executor: ExecutorFactory, add_node: NodeFactory, cut_off: Callable[[Any], None], tmp_path: Path
) -> Iterator[tuple[BackgroundRun, list[dict[str, Any]]]]:
    """A run whose only rank is in its second attempt, since the node of the first one was cut off; and their reports.

    The attempts write lines until the files `gate/1` and `gate/2` exist.
    """
    (tmp_path / "gate").mkdir()
    node = add_node(**ON_SPOT)
    pipeline = [steps.report_to(tmp_path / "reports"), steps.write_lines(tmp_path / "out", tmp_path / "gate")]
    with BackgroundRun(make_executor(pipeline, workers=1, ray_remote_kwargs=ON_SPOT)) as run:
        wait_for(lambda: read_reports(tmp_path / "reports"), "the first attempt")
        cut_off(node)
        add_node(**ON_SPOT)
        wait_for(lambda: len(read_reports(tmp_path / "reports")) == 2, "the second attempt")
        yield run, read_reports(tmp_path / "reports")
        (tmp_path / "gate/1").touch()
        (tmp_path / "gate/2").touch()


def writers(output: Path) -> set[str]:
    """Return the attempts whose lines are in the output."""
    return {line.split()[0] for line in output.read_text().splitlines()}


def test_worker_that_ray_cannot_reach_is_dead_before_its_rank_runs_again(
    attempts: tuple[BackgroundRun, list[dict[str, Any]]], tmp_path: Path, run_folder: Path
) -> None:
    run, (first, _) = attempts
    assert not steps.is_running(first["pid"]), "two attempts of a rank must never run at the same time"
    (tmp_path / "gate/2").touch()

    result = run.result()

    assert (result.completed, result.retries) == (1, 1)
    assert writers(tmp_path / "out") == {"2"}
    assert (run_folder / "completions/00000").read_text() == "2\n"


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the driver take its workers for those of other machines, which it can't kill."""
    monkeypatch.setattr(worker_location, "machine_id", lambda: "the driver's machine")


def test_attempt_that_goes_on_where_nothing_can_reach_it_stores_nothing(
    far_away: None, attempts: tuple[BackgroundRun, list[dict[str, Any]]], tmp_path: Path, run_folder: Path
) -> None:
    run, (first, _) = attempts
    assert steps.is_running(first["pid"])
    wait_for(lambda: time.time() - first["at"] > RECHECK_AFTER_S + 1, "an age at which attempts look at their fence")
    (tmp_path / "gate/1").touch()
    log = run_folder / "attempts/00000/1.log"
    wait_for(lambda: "Attempt 1 of rank 0 was given up" in log.read_text(), "the refusal")
    assert list((run_folder / "completions").iterdir()) == list((run_folder / "stats").iterdir()) == []
    (tmp_path / "gate/2").touch()

    result = run.result()

    assert (result.completed, result.retries) == (1, 1)
    assert (run_folder / "completions/00000").read_text() == "2\n"
