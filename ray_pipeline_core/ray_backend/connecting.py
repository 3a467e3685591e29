"""The wait for a cluster: how long it may last, what ends it early, and what is said if it fails."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from ray_pipeline_core.errors import ClusterAuthError, ClusterError, ClusterUnreachableError, ConfigError
from ray_pipeline_core.ray_backend.head import NotAHeadError
from ray_pipeline_core.ray_backend.head_calls import TokenRefusedError
from ray_pipeline_core.ray_backend.ray_messages import reason_of
from ray_pipeline_core.ray_backend.ray_versions import AUTHENTICATION_ERRORS
from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

CONNECT_TIMEOUT_S = 60.0
"""How long a run waits for a cluster to answer, in seconds, unless the environment says otherwise."""
TIMEOUT_VARIABLE = "RAY_PIPELINE_CONNECT_TIMEOUT_S"
"""The environment variable that overrides it."""
SAY_AFTER_S = 5.0
"""After how many seconds the log says what is waited for."""
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")  # in Ray's message about versions that differ, twice


class ConnectTimeoutError(Exception):
    """A cluster did not answer in time."""


class ConnectWait:
    """A wait for a cluster.

    Args:
        what: what is waited for, for messages.
        check: raises `RunInterrupted` to end the wait.
        limit_s: the longest wait, in seconds; None = no limit.
    """

    def __init__(self, what: str, check: Callable[[], None], limit_s: float | None) -> None:
        self._what = what
        self._check = check
        self._limit_s = limit_s
        self._started_s = time.monotonic()
        self._said = False

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._limit_s is not None and time.monotonic() - self._started_s > self._limit_s

    def check(self) -> None:
        """Return if the wait may go on.

        Raises:
            RunInterrupted: the run must end.
            ConnectTimeoutError: the time is over.
        """
        self._check()
        waited_s = time.monotonic() - self._started_s
        if self.is_over:
            raise ConnectTimeoutError(f"nothing answers there, and the wait of {self._limit_s:g} s is over")
        if waited_s > SAY_AFTER_S and not self._said:
            self._said = True
            logger.warning("waiting for %s", self._what)


def connect_timeout_s() -> float:
    """Return how long to wait for a cluster, in seconds.

    Raises:
        ConfigError: the environment variable is not a number of seconds.
    """
    value = os.environ.get(TIMEOUT_VARIABLE, str(CONNECT_TIMEOUT_S))
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{TIMEOUT_VARIABLE}={value!r}: must be a number of seconds above 0")
    return seconds


def connect_error(where: str, source: str, error: Exception) -> ClusterError:
    """Return what to raise when no connection could be made.

    Args:
        where: the address, or "local".
        source: the name of what gave the address.
        error: the reason.
    """
    if where == "local":
        return ClusterUnreachableError(
            f"could not start a local Ray cluster: {type(error).__name__}: {reason_of(error)}; check the free memory "
            "and disk space of this machine, and the logs in /tmp/ray/session_latest/logs"
        )
    if isinstance(error, (TokenRefusedError, *AUTHENTICATION_ERRORS)):
        return ClusterAuthError(
            f"the Ray cluster at {source}={where!r} does not accept this process's token ({_first_sentence(error)}); "
            "set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or in the file ~/.ray/auth_token"
        )
    if isinstance(error, NotAHeadError):
        return ClusterError(
            f"no Ray cluster at {source}={where!r}: {error}; pass the port of the head, 6379 unless it was started "
            "with another one, or ray://HOST:10001 to use a Ray Client server"
        )
    versions = _VERSIONS.findall(str(error))
    if len(versions) == 2:
        (ray, python), (own_ray, own_python) = versions
        return ClusterError(
            f"the Ray cluster at {source}={where!r} runs Ray {ray} on Python {python}, and this process Ray {own_ray} "
            f"on Python {own_python}; install the cluster's versions where run() is called, or the other way round"
        )
    cause = str(error) if isinstance(error, ConnectTimeoutError) else f"{type(error).__name__}: {reason_of(error)}"
    return ClusterUnreachableError(
        f"no Ray cluster at {source}={where!r}: {cause}; check that the cluster is running and that this machine can "
        "reach it, or pass address='local' to start a local one"
    )


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
