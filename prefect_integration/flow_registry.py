"""Lets Prefect find flows that a function has made: it looks for a flow by a name in the file that defines it."""

from __future__ import annotations

import itertools
import re
import sys
from types import FrameType
from typing import Any
from weakref import WeakValueDictionary

from prefect import Flow

from prefect_integration.prefect_versions import FINDS_ATTRIBUTES

REGISTRY = "ray_pipeline_flows"
"""The name, in the user's module, of the object whose attributes are its flows."""


class FlowRegistry:
    """The flows that a module has made, as attributes; those that nothing else holds are forgotten."""

    def __init__(self) -> None:
        self._flows: WeakValueDictionary[str, Flow[..., Any]] = WeakValueDictionary()

    def __getattr__(self, name: str) -> Flow[..., Any]:
        try:
            return self._flows[name]
        except KeyError:
            raise AttributeError(f"no flow is called {name!r} in this file; make it outside of functions") from None

    def add(self, flow: Flow[..., Any]) -> str:
        """Add a flow, and return the name of its attribute, the same one each time that the file is executed."""
        name = re.sub(r"\W+", "_", flow.name)
        names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        free = next(each for each in names if each not in self._flows)
        self._flows[free] = flow
        return free


def register(flow: Flow[..., Any]) -> None:
    """Make a flow loadable from the file that is being executed, so that it can be served and deployed.

    A runner executes the file again and looks there for what the flow's entrypoint names. A flow that is made only
    in `if __name__ == "__main__":` is not there then.
    """
    module = _module_being_executed()
    name = module.get("__name__", "__main__")
    path = f"{REGISTRY}.{module.setdefault(REGISTRY, FlowRegistry()).add(flow)}"
    flow.fn.__qualname__ = path
    if not FINDS_ATTRIBUTES:
        flow.fn.__name__ = path
        module[path] = flow
    flow.__module__ = name
    flow._entrypoint = f"{module.get('__file__', name)}:{path}"


def _module_being_executed() -> dict[str, Any]:
    """Return the globals of the module from which this package was called, directly or by functions."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return {} if frame is None else frame.f_globals  # a thread has no module
