"""Lets Prefect find flows that a function has made: it looks for a flow by a name in the file that defines it."""

from __future__ import annotations

import re
import sys
from types import FrameType, SimpleNamespace
from typing import Any

from prefect import Flow

REGISTRY = "ray_pipeline_flows"
"""The name, in the user's module, of the object that holds its flows."""


def register(flow: Flow[..., Any]) -> None:
    """Make a flow loadable from the file that is being executed, so that it can be served and deployed.

    A runner executes the file again and looks there for what the flow's entrypoint names. A flow that is made only
    in `if __name__ == "__main__":` is not there then.
    """
    module = _module_being_executed()
    registry = module.setdefault(REGISTRY, SimpleNamespace())
    attribute = re.sub(r"\W+", "_", flow.name)
    setattr(registry, attribute, flow)
    flow.fn.__qualname__ = f"{REGISTRY}.{attribute}"
    flow.__module__ = module["__name__"]
    flow._entrypoint = f"{module.get('__file__', module['__name__'])}:{flow.fn.__qualname__}"


def _module_being_executed() -> dict[str, Any]:
    """Return the globals of the innermost module that is being executed, or of the caller of this package."""
    frame: FrameType | None = sys._getframe(1)
    outside = None
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return frame.f_globals
        is_own = str(frame.f_globals.get("__name__")).partition(".")[0] == "prefect_integration"
        outside = outside or (None if is_own else frame.f_globals)
        frame = frame.f_back
    assert outside is not None, "this package was called by something"
    return outside
