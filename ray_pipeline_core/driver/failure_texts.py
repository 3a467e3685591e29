"""The texts of failures as they enter the driver: bounded, and shared by ranks that failed for the same reason."""

from __future__ import annotations

from dataclasses import replace

from ray_pipeline_core.scheduling.outcomes import AttemptFailure

MAX_MESSAGE_LENGTH = 1000
"""The most characters of a message that are kept; what is in the middle of a longer one is left out."""
_TAIL_LENGTH = 300


class FailureTexts:
    """Every text of a failure that a run keeps, writes or shows goes through `received`."""

    def __init__(self) -> None:
        self._shared: dict[str, str] = {}

    def received(self, failure: AttemptFailure) -> AttemptFailure:
        """Return a failure with a message of bounded length, and strings that equal failures share."""
        return replace(
            failure,
            error_type=self._share(bounded(failure.error_type)),
            message=self._share(bounded(failure.message)),
            node=None if failure.node is None else self._share(failure.node),
        )

    def _share(self, text: str) -> str:
        return self._shared.setdefault(text, text)


def bounded(text: str) -> str:
    """Return a text without the middle of what is longer than `MAX_MESSAGE_LENGTH`."""
    left_out = len(text) - MAX_MESSAGE_LENGTH
    if left_out <= 0:
        return text
    head = text[: MAX_MESSAGE_LENGTH - _TAIL_LENGTH]
    return f"{head} [... {left_out} characters ...] {text[-_TAIL_LENGTH:]}"
