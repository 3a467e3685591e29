"""The wait for a cluster: how long it may last, and what ends it early."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.redaction import get_logger

logger = get_logger(__name__)

CONNECT_TIMEOUT_S = 60.0
"""How long a run waits for a cluster to answer, in seconds, unless the environment says otherwise."""
TIMEOUT_VARIABLE = "RAY_PIPELINE_CONNECT_TIMEOUT_S"
"""The environment variable that overrides it."""
SAY_AFTER_S = 5.0
"""After how many seconds the log says what is waited for."""


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

    def check(self) -> None:
        """Return if the wait may go on.

        Raises:
            RunInterrupted: the run must end.
            ConnectTimeoutError: the time is over.
        """
        self._check()
        waited_s = time.monotonic() - self._started_s
        if self._limit_s is not None and waited_s > self._limit_s:
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
