"""Runs the executors of a graph: each as soon as its own parents have ended, several at the same time."""

from __future__ import annotations

import heapq
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from graphlib import TopologicalSorter

from ray_pipeline_core.config import RunConfig
from ray_pipeline_core.driver.driver_thread import RunThread
from ray_pipeline_core.driver.parents import Ending, check_parents
from ray_pipeline_core.driver.pipeline_run import BackendSource, PipelineRun
from ray_pipeline_core.driver.planning import ExecutorNode, RunSpec
from ray_pipeline_core.errors import RayPipelineError, RunCancelledError
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.scheduling.backend import RunPlace

logger = get_logger(__name__)

MAX_RUNS_AT_ONCE = 64
"""Runs that may go on at the same time: each has threads, a lease and requests to the cluster of its own."""


class GraphRun:
    """One run of an executor graph, whose executors are known by their positions in the order.

    The thread that calls `run` decides what starts. A run has a thread of its own, unless it is the only one: then
    nothing can become ready before it ends.

    Args:
        order: the executors, parents first.
        specs: what to run, by position; the others are complete.
        backends: where the runs get their workers.
        stop: ends the runs when set. It is set if one of them ends with an error that is none of ray-pipeline's.
        runs_at_once: the most runs at the same time.
    """

    def __init__(
        self,
        order: Sequence[ExecutorNode],
        specs: Mapping[int, RunSpec],
        backends: BackendSource,
        stop: threading.Event,
        runs_at_once: int = MAX_RUNS_AT_ONCE,
    ) -> None:
        self._order = order
        self._specs = specs
        self._backends = backends
        self._stop = stop
        self._runs_at_once = runs_at_once
        self._ready: list[int] = []
        self._over: set[int] = set()
        self._running = 0
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._endings: dict[int, Ending] = {}
        self._interruptions: dict[int, BaseException] = {}

    def run(self, parents: Mapping[int, Sequence[int]]) -> Ending:
        """Run all executors, and return how the last one ended.

        Args:
            parents: the positions of those that must have ended before an executor starts, by its position.

        Raises:
            RunCancelledError: the runs were stopped.
            BaseException: what a run raised that is no `RayPipelineError`, once the others have ended.
        """
        try:
            self._run_all(TopologicalSorter(parents))
        except BaseException:
            self._stop.set()
            while self._running:
                self._wait_for_one()
            raise
        if self._interruptions:
            raise self._cause_of_end()
        return self._endings[id(self._order[-1])]

    def _run_all(self, sorter: TopologicalSorter[int]) -> None:
        sorter.prepare()
        while sorter.is_active():
            for position in sorter.get_ready():
                heapq.heappush(self._ready, position)
            self._start_ready()
            if not self._running:  # what is ready is not started, since a run was stopped
                return
            sorter.done(self._wait_for_one())

    def _wait_for_one(self) -> int:
        ended = self._ended.get()
        self._running -= 1
        return ended

    def _start_ready(self) -> None:
        """Start what is ready, in order; nothing once a run was stopped."""
        if self._interruptions:
            return
        room = min(len(self._ready), self._runs_at_once - self._running)
        is_alone = not self._running and room == 1
        for position in [heapq.heappop(self._ready) for _ in range(room)]:
            if is_alone:
                self._run(position)
            else:
                RunThread(partial(self._run, position), self._order[position].name).start()
            self._running += 1

    def _run(self, position: int) -> None:
        try:
            if position in self._specs:
                self._endings[id(self._order[position])] = self._ending_of(position)
        except BaseException as error:  # noqa: BLE001 - it is raised when the other runs have ended
            self._interruptions[position] = error
            self._stop.set()
        finally:
            self._over.add(position)
            self._ended.put(position)

    def _ending_of(self, position: int) -> Ending:
        """Run one executor, and return its result, or why it failed or was not run."""
        node, spec = self._order[position], self._specs[position]
        if self._stop.is_set():  # the folder must not change
            raise RunCancelledError(f"run {node.name!r} was stopped before it started; start it again")
        try:
            warnings = check_parents(node, self._endings, self._order)
        except RayPipelineError as error:
            return error
        try:
            place = RunPlace(position, self._not_ended)
            result = PipelineRun(replace(spec, warnings=warnings), self._stop).execute(self._backends, place)
        except RunCancelledError:
            raise
        except RayPipelineError as error:
            self._log_failure(position, error)
            return error
        finally:
            spec.folder.folder.remove_partial_directory()
        node.completed_result = result
        return result

    def _log_failure(self, position: int, error: RayPipelineError) -> None:
        if position < len(self._order) - 1:
            logger.error(
                "executor %r failed, so the executors that depend on it are not run, unless they have "
                "run_on_dependency_fail=True: %s",
                self._order[position].name,
                error,
            )

    def _not_ended(self) -> dict[int, RunConfig]:
        return {position: spec.config for position, spec in self._specs.items() if position not in self._over}

    def _cause_of_end(self) -> BaseException:
        """Return the error that stopped the others; if all were stopped from outside, that of the first one."""
        errors = sorted(self._interruptions.items())
        return min((error for _, error in errors), key=lambda error: isinstance(error, RunCancelledError))
