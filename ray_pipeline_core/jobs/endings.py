"""How a job has ended: a result or an error, as it goes through the log and comes out again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core import errors
from ray_pipeline_core.driver.run_ending import RunEnding
from ray_pipeline_core.errors import RayPipelineError, RunCancelledError, RunError
from ray_pipeline_core.result import RunResult


@dataclass(frozen=True)
class Ending:
    """How the run of a job has ended.

    Attributes:
        result: its result; of one that failed, as far as there is one.
        error: what it has raised; None if it succeeded.
    """

    result: RunResult | None = None
    error: RayPipelineError | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether it was stopped."""
        return isinstance(self.error, RunCancelledError)

    @classmethod
    def of_result(cls, result: RunResult) -> Ending:
        """Return the ending of a run whose result is known, and nothing else."""
        error = RayPipelineError(f"run {result.name!r} failed: {result.error}") if result.error else None
        try:
            RunEnding(error, is_cancelled=result.cancelled).raise_error(result)
        except RayPipelineError as raised:
            return cls(result, raised)
        return cls(result)

    @classmethod
    def of_records(cls, records: Mapping[str, Any]) -> Ending | None:
        """Return what the records in a job's log say; None if they don't tell the end."""
        try:
            if "error" in records:
                error = rebuilt_error(records["error"])
                return cls(getattr(error, "result", None), error)
            if "result" in records:
                return cls(RunResult.from_dict(records["result"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return None


def described_error(error: BaseException) -> dict[str, Any]:
    """Return an error as plain JSON."""
    result = getattr(error, "result", None)
    return {
        "type": type(error).__name__,
        "message": str(error),
        "result": result.to_dict() if isinstance(result, RunResult) else None,
        "attributes": {name: value for name, value in vars(error).items() if isinstance(value, str | bool | int)},
    }


def rebuilt_error(plain: Mapping[str, Any]) -> RayPipelineError:
    """Return the error that `described_error` has described; `RayPipelineError` for a class that there is not here."""
    kind = getattr(errors, plain["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, RayPipelineError)):
        return RayPipelineError(f"the driver of the job raised {plain['type']}: {plain['message']}; see the job's log")
    result = None if plain.get("result") is None else RunResult.from_dict(plain["result"])
    error = kind(plain["message"], result) if issubclass(kind, RunError) else kind(plain["message"])
    vars(error).update(plain.get("attributes") or {})
    return error
