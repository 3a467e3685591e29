"""What a run leaves in Airflow's database."""

from __future__ import annotations

from typing import Any

from ray_pipeline_core import RunResult

MAX_LISTED_FAILURES = 100
"""How many failed ranks an XCom lists; their number and their groups are complete."""


def as_xcom(result: RunResult) -> dict[str, Any]:
    """Return the result as plain JSON of a size that a database is made for."""
    plain = result.to_dict()
    return plain | {"failed": plain["failed"][:MAX_LISTED_FAILURES]}
