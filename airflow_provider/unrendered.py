"""Values that Airflow must neither render nor store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Unrendered:
    """A value that Airflow's renderer leaves alone, and shows and stores as a text that every parse repeats.

    Airflow renders what it finds in lists and dicts, and stores the arguments of mapped tasks; a text with an
    address in it makes a new version of the DAG at every parse.

    Args:
        value: what is kept from Airflow.
        text: what Airflow gets instead.
    """

    def __init__(self, value: Any, text: str | list[str]) -> None:
        self.value = value
        self.text = text

    def serialize(self) -> str | list[str]:
        """What Airflow shows; it looks for a method of this name."""
        return self.text

    def __repr__(self) -> str:
        return str(self.text)


def unrendered(value: Any) -> Unrendered:
    """Keeps a value that may hold secrets, or has no stable text, from Airflow."""
    return value if isinstance(value, Unrendered) else Unrendered(value, "<not shown>")


def unrendered_steps(pipeline: Any) -> Any:
    """Keeps a pipeline of objects from Airflow, which then shows the names of its steps; a string stays one."""
    if isinstance(pipeline, Sequence) and not isinstance(pipeline, str):
        return Unrendered(pipeline, [_step_text(step) for step in pipeline])
    return pipeline


def unwrap(value: Any) -> Any:
    """The value itself, whether it was kept from Airflow or not."""
    return value.value if isinstance(value, Unrendered) else value


def _step_text(step: Callable[..., Any] | Sequence[Any]) -> str:
    while hasattr(step, "func"):  # functools.partial
        step = step.func
    if not callable(step):
        return f"{type(step).__name__} of {len(step)}"
    return str(getattr(step, "__qualname__", type(step).__qualname__))
