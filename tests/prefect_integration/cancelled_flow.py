"""A flow that never ends, for tests that cancel it.

CANCELLED_FLOW="built|submitted FOLDER RAY_ADDRESS" python -m tests.prefect_integration.cancelled_flow run|serve

The flow is made outside of functions, and of what the environment says: where it is served, older releases of Prefect
execute this file again for each flow run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from prefect import Flow, flow

from prefect_integration import ray_pipeline_flow, run_ray_pipeline
from ray_pipeline_core import RayPipelineExecutor
from tests.prefect_integration.executors import hang_in, make_executor_in

kind, _folder, address = os.environ["CANCELLED_FLOW"].split()
folder = Path(_folder)


def endless() -> RayPipelineExecutor:
    """Return an executor whose ranks never end."""
    return make_executor_in(folder, "endless", hang_in(folder / "pids"), address=address)


def built_flow() -> Flow[[], Any]:
    """Return a flow around that executor, with one before it and one after it."""
    siblings = [make_executor_in(folder, name, tasks=1) for name in ("sibling-1", "sibling-2")]
    last = make_executor_in(folder, "last", depends=[siblings[0], endless(), siblings[1]])
    return ray_pipeline_flow(last, name=folder.name)


@flow(name=folder.name)
def submitted_flow() -> object:  # a builtin: see `ray_pipeline_flow`
    """Submit that executor, and wait for it."""
    return run_ray_pipeline.submit(endless()).result()


endless_flow = submitted_flow if kind == "submitted" else built_flow()

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        endless_flow.serve(name="endless")
    else:
        endless_flow()
