"""A DAG run of `job_dag.py`: what its task, its jobs and its ranks have done."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.airflow_api import DagRun, TaskInstance
from tests.support.job_cluster import ACTIVE, JobCluster
from tests.support.waiting import wait_for, wait_until_none


class RunsAhead:
    """Runs that tests ask for in order: when one is asked for, the next ones are started as well.

    Args:
        starts: what starts each run, by its name.
        ahead: how many runs are started beyond the one that is asked for; more are too much for a small machine.
    """

    def __init__(self, starts: Mapping[str, Callable[[], JobRun]], ahead: int = 2) -> None:
        self._starts = starts
        self._ahead = ahead
        self._runs: dict[str, JobRun] = {}

    def __getitem__(self, name: str) -> JobRun:
        names = list(self._starts)
        for each in names[: names.index(name) + 1 + self._ahead]:
            if each not in self._runs:
                self._runs[each] = self._starts[each]()
        return self._runs[name]

    def open_gates(self) -> None:
        """Let all that have been started end, also where no test has asked for them."""
        for run in self._runs.values():
            run.open_gate()


@dataclass(frozen=True)
class JobRun:
    """A DAG run with one task, `job`.

    Attributes:
        dag_run: the DAG run.
        folder: the folder that it works in.
        cluster: where its jobs run.
    """

    dag_run: DagRun
    folder: Path
    cluster: JobCluster

    @property
    def task(self) -> TaskInstance:
        """The task instance."""
        return self.dag_run.task("job")

    @property
    def names(self) -> tuple[str, str]:
        """The ids of the DAG and of the run."""
        _, _, dag_id, _, run_id = self.dag_run.path.split("/", 4)
        return dag_id, run_id

    def jobs(self) -> list[dict[str, Any]]:
        """Return the jobs of the DAG run in the order of their submission."""
        return self.cluster.jobs_of(*self.names)

    def statuses(self) -> list[str]:
        """Return the statuses of the jobs in the order of their submission."""
        return [job["status"] for job in self.jobs()]

    def is_following_the_only_active_job(self) -> bool:
        """Return whether one job is active, and the task follows that one."""
        active = [job["submission_id"] for job in self.jobs() if job["status"] == "RUNNING"]
        return active == [(self.task.xcom("ray_job") or {}).get("submission_id")]

    def wait_until_working(self, attempts: int = 1) -> None:
        """Wait until ranks have been started so often, and the task is where it stays meanwhile."""
        wait_for(lambda: len(self.ran()) >= attempts, f"attempt {attempts} of a rank of {self.dag_run.path}", 240)

    def wait_until_deferred(self) -> None:
        """Wait until a rank works and the task is deferred."""
        self.wait_until_working()
        self.task.wait("deferred")

    def ran(self) -> list[int]:
        """Return the rank of each attempt so far."""
        file = self.folder / "ran"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def shut_gate(self) -> None:
        """Let ranks wait."""
        (self.folder / "gate").touch()

    def open_gate(self) -> None:
        """Let waiting ranks go on."""
        (self.folder / "gate").unlink(missing_ok=True)

    def break_ranks(self, ranks: Collection[int], once: bool = False) -> None:
        """Let ranks fail, always or at their first attempt."""
        (self.folder / ("broken_once" if once else "broken")).write_text(json.dumps(list(ranks)))

    def mend(self) -> None:
        """Let no rank fail any more."""
        (self.folder / "broken").unlink()

    def wait_for_end(self) -> str:
        """Wait for the end of the DAG run, and return the task's state.

        Airflow forgets a task that is cleared just before its DAG run is found to have ended.
        """
        state = self.task.wait_for_end()
        wait_for(lambda: self.dag_run.state in ("success", "failed"), f"the end of {self.dag_run.path}")
        return state

    def lease(self) -> dict[str, Any]:
        """Return the lease of the run that works in the run folder."""
        lease: dict[str, Any] = json.loads((self.folder / "run" / "run.lock").read_text())
        return lease

    def result(self) -> dict[str, Any]:
        """Return the result in the run folder."""
        result: dict[str, Any] = json.loads((self.folder / "run" / "result.json").read_text())
        return result

    def outputs(self) -> list[int]:
        """Return the ranks that have written their output."""
        return sorted(int(path.name.removeprefix("output_")) for path in self.folder.glob("output_*"))

    def markers(self) -> list[int]:
        """Return the ranks that are complete."""
        return sorted(int(path.name) for path in (self.folder / "run" / "completions").glob("[0-9]*"))

    def check(self, statuses: list[str], ran: list[int] | None = None) -> None:
        """Wait until nothing of the DAG run is left on the cluster, and check what has run.

        Args:
            statuses: those of its jobs.
            ran: the rank of each attempt; None = it depends on the moment.
        """
        wait_until_none(lambda: [job for job in self.jobs() if job["status"] in ACTIVE], "jobs")
        assert self.statuses() == statuses, f"{self.statuses()}, not {statuses}\n{self.log()}"
        # A driver that was killed leaves its lease behind, which its successor takes over.
        if statuses:
            wait_until_none(lambda: list(self.folder.rglob("run.lock*")), "leases", timeout_s=75)
        assert ran is None or sorted(self.ran()) == sorted(ran), f"{self.ran()}, not {ran}\n{self.log()}"
        assert self.outputs() == self.markers()

    def log(self) -> str:
        """Return the ends of the logs of all tries, for messages."""
        if self.task.state is None:
            return "the task instance is gone"
        tries = range(1, self.task.try_number + 1)
        return "\n".join(f"--- try {number}\n{self.task.log(number)[-4000:]}" for number in tries)
