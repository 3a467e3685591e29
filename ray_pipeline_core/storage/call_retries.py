"""Calls to remote storage, made again while what failed may pass, with a bound."""

from __future__ import annotations

import logging
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

from ray_pipeline_core.storage.error_translation import redact
from ray_pipeline_core.storage.transient_errors import is_transient

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class RetryBound:
    """How long and how often a remote call is made again.

    Attributes:
        total_s: seconds after the first try from which on no new try begins.
        first_wait_s: seconds to wait after the first failure; doubled after each further one, plus jitter.
        max_wait_s: the longest wait, in seconds.
        call_s: seconds after which a call for one file is given up, which may then pass or not; None = as many as
            the filesystem's own limits allow. Filesystems that are not asynchronous know nothing of it.
        sleep: waits that many seconds; must be picklable.
    """

    total_s: float = 60.0
    first_wait_s: float = 0.5
    max_wait_s: float = 10.0
    call_s: float | None = None
    sleep: Callable[[float], None] = time.sleep


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.info("Storage call failed, try %d follows: %s", state.attempt_number + 1, redact(str(error)))


def call_with_retries(call: Callable[[], T], bound: RetryBound) -> T:
    """Returns `call()`, made again after transient errors until `bound` is spent; raises its last error."""
    retrying = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_exponential(multiplier=bound.first_wait_s, max=bound.max_wait_s) + wait_random(0, bound.first_wait_s),
        stop=stop_after_delay(bound.total_s),
        sleep=bound.sleep,
        before_sleep=_log_retry,
        reraise=True,
    )
    return retrying(call)
