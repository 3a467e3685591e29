"""Words failures for the terminal and the log, those of ranks that never started only once."""

from __future__ import annotations

from ray_pipeline_core.result import RankFailure


class ShownFailures:
    """Tells which failures have been shown: each failed attempt has a line, ranks that never started share one.

    When a run ends early, all of its remaining ranks fail for the same reason, and there may be a million of them.
    """

    def __init__(self) -> None:
        self._lines: set[str] = set()

    def has(self, failure: RankFailure) -> bool:
        """Return whether the line of `failure` was shown before; from now on, it was."""
        if failure.attempts:
            return False
        line = failure_line(failure, will_retry=False)
        is_shown = line in self._lines
        self._lines.add(line)
        return is_shown


def failure_line(failure: RankFailure, will_retry: bool) -> str:
    """Return the line that shows a failure."""
    if failure.attempts == 0:
        return f"ranks that had not started failed: {failure.error_type}: {failure.message}"
    return f"{failure}{'; it is tried again' if will_retry else ''}"
