"""A flow that never ends, for tests that cancel it.

python -m tests.prefect_integration.cancelled_flow built|submitted run|serve FOLDER RAY_ADDRESS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import Flow, flow

from prefect_integration import ray_pipeline_flow, run_ray_pipeline
from ray_pipeline_core import RayPipelineExecutor
from tests.prefect_integration.executors import hang_in, make_executor_in


def endless(folder: Path, address: str) -> RayPipelineExecutor:
    """Return an executor whose ranks never end."""
    return make_executor_in(folder, "endless", hang_in(folder / "pids"), address=address)


def make_flow(kind: str, folder: Path, address: str) -> Flow[[], Any]:
    """Return a flow around that executor; a `built` one also has an executor before it and one after it."""
    if kind == "built":
        siblings = [make_executor_in(folder, name, tasks=1) for name in ("sibling-1", "sibling-2")]
        last = make_executor_in(folder, "last", depends=[siblings[0], endless(folder, address), siblings[1]])
        return ray_pipeline_flow(last, name=folder.name)

    @flow(name=folder.name)
    def users_flow() -> object:  # a builtin: see `ray_pipeline_flow`
        return run_ray_pipeline.submit(endless(folder, address)).result()

    return users_flow


if __name__ == "__main__":
    kind, way, folder, address = sys.argv[1:]
    endless_flow = make_flow(kind, Path(folder), address)
    if way == "serve":
        endless_flow.serve(name="endless")
    else:
        endless_flow()
