"""What a cluster and its jobs say of themselves, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, TypeAlias

from ray_pipeline_core.events import Progress

JobState: TypeAlias = Literal["pending", "running", "succeeded", "failed", "stopped", "lost"]
"""The states of a job; a job that is neither pending nor running is over for good."""
ACTIVE_WORDS = frozenset({"PENDING", "RUNNING"})
"""Ray's words for jobs that are not over."""


@dataclass(frozen=True)
class ClusterInfo:
    """What answers at the address of a dashboard.

    Attributes:
        ray_version: the version of Ray there.
        session_name: the name of the cluster's session, which changes when its head is started anew.
        api_version: the version of the Jobs API there.
    """

    ray_version: str
    session_name: str = ""
    api_version: str = ""


@dataclass(frozen=True)
class JobInfo:
    """A job, as the cluster lists it.

    Attributes:
        submission_id: its id.
        status: Ray's word for its state, such as "RUNNING".
        metadata: what was given with it.
        message: what Ray says of its state; of a failed one, the end of its log.
        started_at: when it was submitted, in UTC.
        ended_at: when it ended, in UTC.
        error_type: Ray's word for what has ended a failed one.
        exit_code: the exit code of its driver; negative for a signal, None if the driver has not ended by itself.
    """

    submission_id: str
    status: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error_type: str | None = None
    exit_code: int | None = None

    @property
    def is_active(self) -> bool:
        """Whether it is neither over nor in a state that this release does not know."""
        return self.status in ACTIVE_WORDS

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> JobInfo:
        """Return the job that an answer of the Jobs API describes."""
        metadata = plain.get("metadata")
        return cls(
            submission_id=str(plain.get("submission_id") or ""),
            status=str(plain.get("status") or ""),
            metadata={str(key): str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {},
            message=str(plain.get("message") or ""),
            started_at=_time_of(plain.get("start_time")),
            ended_at=_time_of(plain.get("end_time")),
            error_type=plain.get("error_type"),
            exit_code=plain.get("driver_exit_code"),
        )


def _time_of(milliseconds: Any) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc) if isinstance(milliseconds, int) else None


@dataclass(frozen=True)
class JobStatus:
    """The state of a job.

    Attributes:
        state: "pending", "running", "succeeded", "failed", "stopped" or "lost".
        message: what there is to say of it, in a sentence or two; the error of a job that failed.
        progress: the newest progress of the run that is known; None before there is any.
        started_at: when the job was submitted, in UTC; None if that is not known.
        ended_at: when it ended, in UTC; None before.
        dashboard_link: the job's page in Ray's dashboard.
        warnings: what a person should know of the run.
    """

    state: JobState
    message: str = ""
    progress: Progress | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    dashboard_link: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether the job is neither pending nor running."""
        return self.state not in ("pending", "running")


@dataclass(frozen=True)
class JobLog:
    """A piece of the log of a job.

    Attributes:
        text: what the driver has printed.
        offset: where the next piece begins, to be passed to the next call, in this process or in another one.
    """

    text: str
    offset: int
