"""What an orchestrator asks of a run folder: the missing ranks, or all of them again; and what the folder remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.validation import is_integer, require

MODES = ("auto", "missing", "all")
MAX_REQUESTS = 200
"""Of how many tasks of an orchestrator a run folder remembers the newest request."""

_TEXTS = ("task", "epoch", "token")


@dataclass(frozen=True)
class Rerun:
    """A request to run a run folder, as an orchestrator makes one for each try of a task.

    A driver that is started again for the same request does the missing ranks, whatever the mode: what its predecessor
    has completed counts.

    Attributes:
        mode: "missing" does the ranks without a marker, "all" every rank. "auto" does every rank if the former request
            of the same task has succeeded and this one is no further attempt at it; else the missing ones.
        epoch: what all attempts have in common of which each was made because the one before it had failed.
        attempt: the number of the attempt; within an epoch it rises.
        task: what the orchestrator runs, one day's run of one task; several may share a run folder.
        token: tells requests of equal epoch and attempt apart, where a task may be deleted and created again.
        failed_tokens: those of former requests that the orchestrator has failed; their success does not count.

    Raises:
        ConfigError: an attribute is wrong.
    """

    mode: str
    epoch: str
    attempt: int
    task: str = ""
    token: str = ""
    failed_tokens: Sequence[str] = ()

    def __post_init__(self) -> None:
        require(self.mode in MODES, "rerun", self.mode, "must be 'auto', 'missing' or 'all'")
        require(is_integer(self.attempt), "Rerun.attempt", self.attempt, "must be an integer")
        for name in _TEXTS:
            require(isinstance(getattr(self, name), str), f"Rerun.{name}", getattr(self, name), "must be a text")

    def to_dict(self) -> dict[str, Any]:
        """Return what the run's files say of it, as plain JSON."""
        return {"task": self.task, "epoch": self.epoch, "attempt": self.attempt, "token": self.token}

    def repeats(self, requests: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return whether the folder, which remembers these requests, has this one already."""
        former = requests.get(self.task)
        return former is not None and all(former[name] == value for name, value in self.to_dict().items())

    def runs_all(self, requests: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return whether every rank is to run in a folder that remembers these requests."""
        former = requests.get(self.task)
        if self.mode != "auto":
            return self.mode == "all"
        if former is None or not former["ok"] or former["token"] in self.failed_tokens:
            return False
        is_further = former["epoch"] == self.epoch and self.attempt > former["attempt"]
        return not is_further

    def added_to(self, requests: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Return the requests that the folder remembers once it has this one, which comes last."""
        others = {task: request for task, request in requests.items() if task != self.task}
        kept = list(others.items())[-(MAX_REQUESTS - 1) :]
        return {**dict(kept), self.task: {**self.to_dict(), "ok": False}}


def requests_in(executor: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the newest request of each task, the newest of all last, as the content of `executor.json` has them."""
    stored = executor.get("requests")
    requests = stored if isinstance(stored, list) else []
    return {request["task"]: request for request in requests if _is_request(request)}


def settled_requests(folder: RunFolder, requests: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the requests with what `result.json` says of the newest one: no other can have got a result since."""
    settled = dict(requests)
    if settled:
        task, newest = list(settled.items())[-1]
        settled[task] = {**newest, "ok": newest["ok"] or _has_succeeded(folder, newest)}
    return settled


def newest_requests(folder: RunFolder) -> dict[str, Mapping[str, Any]]:
    """Return the requests that a folder remembers, with whether each has succeeded."""
    try:
        return settled_requests(folder, requests_in(folder.read_executor() or {}))
    except ValueError:
        return {}


def _has_succeeded(folder: RunFolder, request: Mapping[str, Any]) -> bool:
    try:
        result = folder.read_result() or {}
    except ValueError:
        return False
    answered = {name: request[name] for name in (*_TEXTS, "attempt")}
    return result.get("ok") is True and result.get("request") == answered


def _is_request(request: object) -> bool:
    return (
        isinstance(request, dict)
        and all(isinstance(request.get(name), str) for name in _TEXTS)
        and is_integer(request.get("attempt"))
        and isinstance(request.get("ok"), bool)
    )
