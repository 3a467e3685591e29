"""Retries of calls to remote storage after transient errors, with exponential backoff."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.storage.transient_errors import is_transient

_log = get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class RetryLimits:
    """The limits on retries of a remote call.

    Attributes:
        total_s: seconds since the start of the first call after which a failure is no longer retried.
        first_wait_s: seconds to wait before the first retry; doubled for each further one, plus jitter.
        max_wait_s: longest wait without the jitter, in seconds.
        call_timeout_s: timeout of a call for one file, in seconds, and one second more for each MiB that it uploads;
            the call may still take effect later. None = only the filesystem's own timeouts.
        sleep: function that waits for that many seconds; must be picklable.
    """

    total_s: float = 60.0
    first_wait_s: float = 0.5
    max_wait_s: float = 10.0
    call_timeout_s: float | None = None
    sleep: Callable[[float], None] = time.sleep


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.info("Storage call failed, trying again (attempt %d): %s", state.attempt_number + 1, error)


def call_with_retries(call: Callable[[], T], limits: RetryLimits) -> T:
    """Return the result of `call()`, retrying transient errors within `limits`; then raise the last error."""
    jitter = wait_random(0, limits.first_wait_s)
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_exponential(multiplier=limits.first_wait_s, max=limits.max_wait_s) + jitter,
        stop=stop_after_delay(limits.total_s),
        sleep=limits.sleep,
        before_sleep=_log_retry,
        reraise=True,
    )
    return retrying(call)
