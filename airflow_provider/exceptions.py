"""Translates the core's errors into Airflow's exceptions."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from ray_pipeline_core import ConfigError, RayPipelineError, RunFolderMismatchError, RunIncompleteError, RunResult

_NOT_RETRYABLE = (ConfigError, RunFolderMismatchError)
_MAX_LISTED_FAILURES = 20


def as_airflow_error(error: RayPipelineError) -> AirflowException:
    """Return the exception that the Airflow task should raise for `error`.

    Returns:
        An `AirflowFailException`, after which Airflow does not retry, if a retry can't help; an `AirflowException`
        otherwise.
    """
    kind = AirflowFailException if isinstance(error, _NOT_RETRYABLE) else AirflowException
    if isinstance(error, RunIncompleteError) and error.result is not None:
        return kind(_list_failures(error.result))
    return kind(str(error))


def _list_failures(result: RunResult) -> str:
    more = len(result.failed) - _MAX_LISTED_FAILURES
    lines = [
        f"run {result.name!r}: {len(result.failed)} of {result.world_size} ranks failed, {result.completed} "
        f"completed; the next try runs only the missing ranks. Run folder: {result.logging_dir}",
        *(str(failure) for failure in result.failed[:_MAX_LISTED_FAILURES]),
        *([f"and {more} more; result.json in the run folder lists them all"] if more > 0 else []),
    ]
    return "\n".join(lines)
