"""What a run leaves in Airflow's database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from airflow.sdk import Context

from ray_pipeline_core import RunResult

MAX_LISTED_FAILURES = 100
"""How many failed ranks an XCom lists; their number and their groups are complete."""

_MAX_MESSAGE_LENGTH = 300
_MAX_RANGES_LENGTH = 500
_MAX_WARNINGS = 20
_MAX_STATS_LENGTH = 50_000


def as_xcom(result: RunResult) -> dict[str, Any]:
    """Return the result as plain JSON of a size that a database is made for; `result.json` has the whole.

    Long texts are cut, and so are the ranges of ranks in a group, whose `count` is complete. Stats are left out if
    there are many.
    """
    plain = result.to_dict()
    return plain | {
        "failed": [_shortened(failure) for failure in plain["failed"][:MAX_LISTED_FAILURES]],
        "failure_groups": [_shortened(group) for group in plain["failure_groups"]],
        "warnings": [_cut(warning) for warning in plain["warnings"][:_MAX_WARNINGS]],
        "error": None if plain["error"] is None else _cut(plain["error"]),
        "stats": plain["stats"] if len(json.dumps(plain["stats"])) <= _MAX_STATS_LENGTH else [],
    }


def _shortened(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return a failure or a group with a message, and ranges of ranks, of bounded length."""
    shortened = dict(described) | {"message": _cut(described["message"])}
    ranges = described.get("ranks", "")
    if len(ranges) > _MAX_RANGES_LENGTH:
        shortened["ranks"] = ranges[: ranges.rindex(", ", 0, _MAX_RANGES_LENGTH)]
    return shortened


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE_LENGTH else f"{text[: _MAX_MESSAGE_LENGTH - 3]}..."


class PushingTask(Protocol):
    """What pushing the result needs of an operator."""

    do_xcom_push: bool

    @property
    def log(self) -> Any:
        """The logger of the task."""
        ...


def push_result(task: PushingTask, context: Context, result: RunResult) -> None:
    """Push the result of a task that fails, whose return value Airflow does not push."""
    if not task.do_xcom_push:
        return
    try:
        context["ti"].xcom_push(key="return_value", value=as_xcom(result))  # pyright: ignore[reportTypedDictNotRequiredAccess]
    except Exception:
        task.log.exception(
            "could not push the result of the failed run to XCom; read result.json in %s", result.logging_dir
        )
