"""Values that Airflow must neither render nor store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_pipeline_core import InputFiles


class Unrendered:
    """A value that Airflow must not render; the UI and the stored DAG have a string in its place.

    Airflow looks for templates inside lists and dicts, and stores the arguments of mapped tasks. The string must be
    the same at every parse: one with a memory address in it would make a new DAG version each time.

    Args:
        value: the value.
        shown: the string, or list of strings, that Airflow shows and stores instead.
    """

    def __init__(self, value: Any, shown: str | list[str]) -> None:
        self.value = value
        self.shown = shown

    def serialize(self) -> str | list[str]:
        """Return the string that Airflow shows and stores; Airflow looks for a method of this name."""
        return self.shown

    def __repr__(self) -> str:
        return str(self.shown)


def unrendered(value: Any) -> Unrendered:
    """Wrap a value that may hold secrets, or whose `repr` changes from parse to parse."""
    return value if isinstance(value, Unrendered) else Unrendered(value, "<not shown>")


def unrendered_steps(pipeline: Any) -> Any:
    """Wrap a list of steps, of which Airflow then shows the names; return an import path as it is."""
    if isinstance(pipeline, Sequence) and not isinstance(pipeline, str):
        return Unrendered(pipeline, [_shown_step(step) for step in pipeline])
    return pipeline


def unrendered_source(inputs: Any) -> Any:
    """Wrap an object that lists inputs, except for files and lists, in which Airflow finds templates."""
    if callable(getattr(inputs, "list", None)) and not isinstance(inputs, InputFiles):
        return Unrendered(inputs, type(inputs).__qualname__)
    return inputs


def unwrap(value: Any) -> Any:
    """Return the value inside an `Unrendered`, and any other value as it is."""
    return value.value if isinstance(value, Unrendered) else value


def _shown_step(step: Any) -> str:
    while hasattr(step, "func"):  # functools.partial
        step = step.func
    if not callable(step):
        return f"{type(step).__name__} of {len(step)}"
    return str(getattr(step, "__qualname__", type(step).__qualname__))
