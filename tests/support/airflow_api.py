"""Airflow's API: DAG runs, task instances, and what a user does with them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import wait_for

RUN_TIMEOUT_S = 240.0
ENDED = ("success", "failed", "upstream_failed", "skipped", "removed")


def api_client(port: int) -> httpx.Client:
    """Return a client of the API of an Airflow on this machine, which must log in first."""
    return httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v2", timeout=60)


def log_in(client: httpx.Client) -> bool:
    """Give the client a token if Airflow answers, and return whether it does."""
    with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
        token = client.get(client.base_url.join("/auth/token"), timeout=10).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        return True
    return False


@dataclass(frozen=True)
class TaskInstance:
    """A task instance of a started Airflow.

    Attributes:
        api: a client of its API, with a token.
        dag_run: the path of the DAG run there.
        task_id: the task.
        map_index: the index of a mapped task instance; -1 = the task is not mapped.
    """

    api: httpx.Client
    dag_run: str
    task_id: str
    map_index: int = -1

    @property
    def path(self) -> str:
        """The path of the task instance in the API."""
        mapped = f"/{self.map_index}" if self.map_index >= 0 else ""
        return f"{self.dag_run}/taskInstances/{self.task_id}{mapped}"

    def read(self) -> dict[str, Any]:
        """Return what the API says of the task instance; nothing while it does not exist."""
        answer = self.api.get(self.path)
        return {"state": None, "try_number": 0} if answer.status_code == 404 else dict(answer.raise_for_status().json())

    @property
    def state(self) -> str | None:
        """The state, as Airflow has it."""
        state: str | None = self.read()["state"]
        return state

    @property
    def try_number(self) -> int:
        """The number of the newest try."""
        return int(self.read()["try_number"])

    def wait(self, *states: str, timeout_s: float = RUN_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the task instance has one of the states, and return what the API says of it then."""
        seen: list[dict[str, Any]] = [{}]

        def has_state() -> bool:
            seen[0] = self.read()
            return seen[0]["state"] in states

        try:
            wait_for(has_state, f"{self.path}: {' or '.join(states)}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen[0]['state']}\n{self.log()[-3000:]}") from None
        return seen[0]

    def wait_for_end(self, timeout_s: float = RUN_TIMEOUT_S) -> str:
        """Wait until no try is left, and return the state."""
        return str(self.wait(*ENDED, timeout_s=timeout_s)["state"])

    def clear(self, **options: Any) -> None:
        """Clear the task instance, as the button does."""
        dag, _, run_id = self.dag_run.partition("/dagRuns/")
        task = [self.task_id, self.map_index] if self.map_index >= 0 else self.task_id
        wanted = {"dry_run": False, "only_failed": False, "reset_dag_runs": True, "task_ids": [task]}
        answer = self.api.post(f"{dag}/clearTaskInstances", json=wanted | {"dag_run_id": run_id} | options)
        assert answer.is_success, answer.text

    def mark(self, state: str) -> None:
        """Mark the task instance as `failed`, `success` or `skipped`."""
        self.api.patch(self.path, json={"new_state": state}).raise_for_status()

    def log(self, try_number: int | None = None) -> str:
        """Return the log of a try, the newest unless another is given."""
        path = f"{self.dag_run}/taskInstances/{self.task_id}/logs/{try_number or self.try_number}"
        answer = self.api.get(path, params={"full_content": True, "map_index": self.map_index}).raise_for_status()
        return "\n".join(_log_lines(answer.json()["content"]))

    def xcom(self, key: str = "return_value") -> Any:
        """Return an XCom of the task instance; None if there is none."""
        path = f"{self.dag_run}/taskInstances/{self.task_id}/xcomEntries/{key}"
        answer = self.api.get(path, params={"map_index": self.map_index, "deserialize": True})
        return None if answer.status_code == 404 else answer.raise_for_status().json()["value"]

    def links(self) -> dict[str, str | None]:
        """Return the URLs of the extra links by their names."""
        path = f"{self.dag_run}/taskInstances/{self.task_id}/links"
        answer = self.api.get(path, params={"map_index": self.map_index}).raise_for_status()
        return dict(answer.json()["extra_links"])


def _log_lines(records: Iterable[Any]) -> Iterator[str]:
    for record in records:
        fields: dict[str, Any] = {"event": record} if isinstance(record, str) else record
        yield " ".join(str(fields[name]) for name in ("timestamp", "level", "event") if name in fields)
        for error in fields.get("error_detail") or ():
            yield f"{error['exc_type']}: {error['exc_value']}"


@dataclass(frozen=True)
class DagRun:
    """A DAG run of a started Airflow.

    Attributes:
        api: a client of its API, with a token.
        path: the path of the DAG run there.
    """

    api: httpx.Client
    path: str

    def task(self, task_id: str, map_index: int = -1) -> TaskInstance:
        """Return a task instance of the DAG run."""
        return TaskInstance(self.api, self.path, task_id, map_index)

    @property
    def state(self) -> str:
        """The state of the DAG run."""
        return str(self.api.get(self.path).raise_for_status().json()["state"])

    def mark(self, state: str) -> None:
        """Mark the DAG run as `failed` or `success`."""
        self.api.patch(self.path, json={"state": state}).raise_for_status()

    def delete(self) -> None:
        """Delete the DAG run with its task instances."""
        self.api.delete(self.path).raise_for_status()

    def wait_for_task(self, task_id: str, map_index: int = -1, retried: bool = True) -> tuple[str, int]:
        """Wait for the end of a task instance, and return its state and the number of its newest try.

        Args:
            task_id: the task.
            map_index: the index of a mapped task instance.
            retried: whether to wait for another try after one that has failed.
        """
        ended = self.task(task_id, map_index).wait(*ENDED, *(() if retried else ("up_for_retry",)))
        return ended["state"], ended["try_number"]

    def clear(self, task_id: str) -> None:
        """Clear a task that has ended, so that it runs again."""
        TaskInstance(self.api, self.path, task_id).clear()

    def mark_failed(self, task_id: str) -> None:
        """Mark a task that is running as failed, upon which Airflow kills it."""
        self.task(task_id).mark("failed")

    def task_log(self, task_id: str) -> str:
        """Return the log of the newest try of a task."""
        return self.task(task_id).log()


@dataclass(frozen=True)
class Airflow:
    """A started Airflow.

    Attributes:
        api: a client of its API, with a token.
        home: its folder.
    """

    api: httpx.Client
    home: Path

    @property
    def logs(self) -> Path:
        """The folder of the logs of tasks."""
        return self.home / "logs"

    def unpause(self, dag_id: str, paused: bool = False) -> None:
        """Unpause a DAG, or pause it, once the DAG processor has found it."""
        wait_for(lambda: self._has(dag_id), f"the DAG {dag_id}")
        self.api.patch(f"/dags/{dag_id}", json={"is_paused": paused}).raise_for_status()

    def _has(self, dag_id: str) -> bool:
        if self.api.get(f"/dags/{dag_id}").status_code == 200:
            return True
        errors = self.api.get("/importErrors").raise_for_status().json()["import_errors"]
        assert not errors, errors[0]["stack_trace"]
        return False

    def start(
        self, dag_id: str, logical_date: str | None, conf: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> DagRun:
        """Start a run of a DAG, once the DAG processor has found it."""
        self.unpause(dag_id)
        wanted = {"logical_date": logical_date, "conf": conf or {}} | ({"dag_run_id": run_id} if run_id else {})
        answer = self.api.post(f"/dags/{dag_id}/dagRuns", json=wanted)
        assert answer.is_success, answer.text
        return DagRun(self.api, f"/dags/{dag_id}/dagRuns/{answer.json()['dag_run_id']}")

    def backfill(
        self, dag_id: str, first: str, last: str, max_active_runs: int, conf: Mapping[str, Any], reprocess: str = "none"
    ) -> Collection[DagRun]:
        """Start a backfill of the dates from the first to the last, and return its DAG runs."""
        self.unpause(dag_id)
        wanted = {
            "dag_id": dag_id, "from_date": first, "to_date": last, "max_active_runs": max_active_runs,
            "dag_run_conf": dict(conf), "reprocess_behavior": reprocess,
        }  # fmt: skip
        answers: list[httpx.Response] = []

        def is_taken() -> bool:
            answers.append(self.api.post("/backfills", json=wanted))
            # An earlier backfill counts as running until the scheduler looks at it, every 30 s; SQLite has one writer.
            is_running = answers[-1].status_code == httpx.codes.CONFLICT
            return not is_running and "Database is locked" not in answers[-1].text

        wait_for(is_taken, f"the end of earlier backfills of {dag_id}")
        assert answers[-1].is_success, answers[-1].text
        runs = self.api.get(f"/dags/{dag_id}/dagRuns", params={"run_type": ["backfill"]}).raise_for_status().json()
        return [DagRun(self.api, f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}") for run in runs["dag_runs"]]
