"""What the outlets of a task get to know of its run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import Asset, Context
from airflow.sdk.definitions.asset import AssetRef

from airflow_provider.run_counts import run_counts


def describe_outlets(context: Context, outlets: Iterable[Any], result: Mapping[str, Any]) -> None:
    """Add the numbers of a run, and its folder, to the event of each asset; what an event has already stays.

    Args:
        context: the context of the task.
        outlets: the outlets of the task; assets, and anything else, which has no event of its own.
        result: `RunResult.to_dict()`.
    """
    counts = run_counts(result)
    for outlet in outlets:
        if isinstance(outlet, Asset | AssetRef):
            event = context["outlet_events"][outlet]  # pyright: ignore[reportTypedDictNotRequiredAccess]
            event.extra = {**counts, **event.extra}
