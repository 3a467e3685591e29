"""The core's errors as Airflow takes them: as what they are, and as `AirflowFailException` too where no retry helps."""

from __future__ import annotations

from functools import cache
from typing import Any

from airflow_provider.airflow_versions import AirflowFailException
from airflow_provider.failure_texts import list_groups
from ray_pipeline_core import (
    ClusterAuthError,
    ClusterError,
    ClusterUnreachableError,
    RayPipelineError,
    RunIncompleteError,
)

_OF_CONNECTIONS = (ClusterError, ClusterAuthError, ClusterUnreachableError)


def as_airflow_error(error: RayPipelineError, ray_conn_id: str | None = None) -> RayPipelineError:
    """Return the error that the Airflow task should raise for `error`.

    Args:
        error: the error.
        ray_conn_id: the Airflow connection of the cluster, which is named if the cluster can't be used.

    Returns:
        An error of the same type. If a retry can't help, it is an `AirflowFailException` as well, after which Airflow
        does not retry.
    """
    raised = _with_connection(_with_groups(error), ray_conn_id)
    return _not_retried(raised) if error.needs_change or _wants_no_retry(error) else raised


def _with_groups(error: RayPipelineError) -> RayPipelineError:
    """Return an error of failed ranks with a message for Airflow's log, and any other as it is."""
    if not isinstance(error, RunIncompleteError) or error.result is None:
        return error
    listed = RunIncompleteError(list_groups(error.result), error.result)
    listed.__cause__, listed.__suppress_context__ = error.__cause__, True
    return listed  # without the driver's frames: they say nothing of why ranks have failed


def _with_connection(error: RayPipelineError, ray_conn_id: str | None) -> RayPipelineError:
    if not ray_conn_id or type(error) not in _OF_CONNECTIONS:
        return error
    return _copy(error, type(error), f"connection {ray_conn_id!r}: {error}")


def _wants_no_retry(error: RayPipelineError) -> bool:
    """Return whether every rank has failed with Airflow's own error for that, which a step has raised."""
    if not isinstance(error, RunIncompleteError) or error.result is None:
        return False
    return all(_is_fail_exception(failure.error_type) for failure in error.result.failed)


def _is_fail_exception(error_type: str) -> bool:
    return error_type.startswith("airflow.") and error_type.endswith(f".{AirflowFailException.__name__}")


def _not_retried(error: RayPipelineError) -> RayPipelineError:
    return _copy(error, _not_retried_kind(type(error)), *error.args)  # type: ignore[arg-type]


@cache
def _not_retried_kind(kind: type[RayPipelineError]) -> type[RayPipelineError]:
    """Return the class that is `kind` and `AirflowFailException`; errors of it are pickled as those of `kind`."""

    def reduce(self: RayPipelineError) -> Any:
        return _not_retried, (_copy(self, kind, *self.args),)

    return type(kind.__name__, (kind, AirflowFailException), {"__module__": __name__, "__reduce__": reduce})


def _copy(error: RayPipelineError, kind: type[RayPipelineError], *args: Any) -> RayPipelineError:
    """Return an error of class `kind` with these arguments and all that another one has besides."""
    copied = kind.__new__(kind, *args)
    copied.args = args
    copied.__dict__.update(error.__dict__)
    copied.__cause__, copied.__suppress_context__ = error.__cause__, True
    return copied.with_traceback(error.__traceback__)
