"""The base of observers that notify people of the end of a run and of its first failed rank."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_pipeline_core.events import RunObserver
from ray_pipeline_core.observers.failure_lines import failure_line
from ray_pipeline_core.redaction import get_logger, redact
from ray_pipeline_core.result import RankFailure, RunPlan, RunResult
from ray_pipeline_core.validation import require, require_limit

logger = get_logger(__name__)

_MAX_GROUPS = 20
_LONG = ("failed", "stats")  # fields of a result that may be large


@dataclass(frozen=True)
class Notification:
    """What a notifier sends.

    Attributes:
        event: "first_failure" or "run_finished".
        title: one line that says what has happened to which run.
        text: the title, and what a person should know in some lines.
        fields: the same as plain JSON.
    """

    event: str
    title: str
    text: str
    fields: Mapping[str, Any]


@dataclass
class _Run:
    """A run that goes on.

    Attributes:
        plan: its plan.
        has_failed: whether a rank has failed for good.
        sending: the threads that send its messages.
    """

    plan: RunPlan
    has_failed: bool = False
    sending: list[threading.Thread] = field(default_factory=list)


class Notifier(RunObserver, ABC):
    """Sends a message when a run has ended, and when its first rank has failed for good.

    A message is sent in a thread of its own, so the run goes on meanwhile; its end waits for the messages, `timeout_s`
    at most. One that can't be sent is a warning in the log. A run that is refused before it starts, because its folder
    is locked for instance, sends none. One notifier may serve all executors of a chain, also those that run
    at the same time.

    Args:
        at_end: whether to notify of the end, successful or not.
        at_first_failure: whether to notify of the first rank that has failed and is not tried again.
        timeout_s: how long a message may take, in seconds.
    """

    def __init__(self, at_end: bool, at_first_failure: bool, timeout_s: float) -> None:
        require(isinstance(at_end, bool), "at_end", at_end, "must be True or False")
        require(isinstance(at_first_failure, bool), "at_first_failure", at_first_failure, "must be True or False")
        require(at_end or at_first_failure, "at_end", at_end, "must be True unless at_first_failure is")
        require_limit("timeout_s", timeout_s)
        self._at_end, self._at_first_failure, self._timeout_s = at_end, at_first_failure, timeout_s
        self._runs: dict[int, _Run] = {}  # by the id of its thread

    @abstractmethod
    def send(self, notification: Notification) -> None:
        """Send a message, within `timeout_s`; what this raises is logged."""

    @abstractmethod
    def describe_error(self, error: Exception) -> str:
        """Return why a message could not be sent, without secrets."""

    def on_run_started(self, plan: RunPlan) -> None:
        """Begin with a run of which no rank has failed."""
        self._runs[threading.get_ident()] = _Run(plan)

    def on_rank_failed(self, failure: RankFailure, will_retry: bool) -> None:
        """Notify of the first rank that has failed for good."""
        run = self._runs.get(threading.get_ident())
        if run is None or run.has_failed or will_retry or not self._at_first_failure:
            return
        run.has_failed = True
        run.sending.append(self._start(_first_failure(run.plan, failure)))

    def on_run_finished(self, result: RunResult) -> None:
        """Notify of the end, and wait until all messages of the run are sent."""
        run = self._runs.pop(threading.get_ident(), None)
        sending = [] if run is None else run.sending
        if self._at_end:
            sending.append(self._start(_run_finished(result)))
        deadline_s = time.monotonic() + self._timeout_s
        for thread in sending:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                logger.warning("%r has not sent its message within %g s", self, self._timeout_s)

    def _start(self, notification: Notification) -> threading.Thread:
        thread = threading.Thread(target=self._try_to_send, args=(notification,), name="notification", daemon=True)
        thread.start()
        return thread

    def _try_to_send(self, notification: Notification) -> None:
        try:
            self.send(notification)
        except Exception as error:  # noqa: BLE001 - the run does not depend on it
            reason = redact(self.describe_error(error))
            logger.warning("%r could not send its message about %r: %s", self, notification.title, reason)


def _first_failure(plan: RunPlan, failure: RankFailure) -> Notification:
    title = f"{plan.name}: a first rank has failed"
    line = failure_line(failure, will_retry=False)
    fields = {"name": plan.name, "logging_dir": plan.logging_dir, "failure": _plain_failure(failure)}
    return Notification("first_failure", title, f"{title}\n{line}\nrun folder: {plan.logging_dir}", fields)


def _plain_failure(failure: RankFailure) -> dict[str, Any]:
    names = ("rank", "kind", "attempts", "error_type", "message", "node", "log")
    return {name: getattr(failure, name) for name in names}


def _run_finished(result: RunResult) -> Notification:
    plain = {name: value for name, value in result.without_stats().to_dict().items() if name not in _LONG}
    plain["failure_groups"] = groups = plain["failure_groups"][:_MAX_GROUPS]
    lines = [f"{each['count']} failed: {each['kind']}: {each['error_type']}: {each['message']}" for each in groups]
    title = _title(result)
    return Notification("run_finished", title, "\n".join([title, str(result), *lines, *result.warnings]), plain)


def _title(result: RunResult) -> str:
    if result.ok:
        return f"{result.name}: complete"
    if result.cancelled:
        return f"{result.name}: stopped with {result.completed} of {result.world_size} ranks completed"
    if result.error is not None:
        return f"{result.name}: ended with {result.error}"
    return f"{result.name}: {len(result.failed)} of {result.world_size} ranks failed"
