"""Values that Airflow must neither render nor store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, ClassVar

from airflow_provider.folder_specs import split_folder
from ray_pipeline_core import InputFiles

_NEVER_RENDERED = ("ray_remote_kwargs", "runtime_env", "refresh", "observers", "retry")
_NOT_SHOWN = "<not shown>"


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


class _Unstored(Unrendered):
    """An object that Airflow does not store; the templates that the object says it has are rendered."""

    template_fields: ClassVar[tuple[str, ...]] = ("value",)


_KEPT = (Unrendered, str, int, float, date, timedelta, type(None))


def hidden(name: str, value: Any) -> Any:
    """Return what stands for the value of a parameter in what Airflow stores and renders.

    Args:
        name: the parameter of the operator.
        value: its value, which may be wrapped already.
    """
    if isinstance(value, Unrendered) or is_resolved_later(value):
        return value
    if name in _NEVER_RENDERED:
        return value if value is None else Unrendered(value, _NOT_SHOWN)
    if name == "pipeline":
        return unrendered_steps(value)
    if name == "logging_dir":
        path, storage = split_folder(value)
        return value if storage is None else Unrendered(value, path if isinstance(path, str) else _NOT_SHOWN)
    if name == "inputs":
        return unrendered_source(value)
    return unstored_objects(value) if name == "pipeline_kwargs" else value


def unrendered_steps(pipeline: Any) -> Any:
    """Wrap a list of steps, of which Airflow then shows the names; return an import path as it is."""
    if isinstance(pipeline, Sequence) and not isinstance(pipeline, str):
        return Unrendered(pipeline, [_shown_step(step) for step in pipeline])
    return pipeline


def unrendered_source(inputs: Any) -> Any:
    """Wrap an object that lists inputs, except for files and lists, in which Airflow finds templates."""
    if callable(getattr(inputs, "list", None)) and not isinstance(inputs, InputFiles):
        return Unrendered(inputs, type(inputs).__qualname__)
    return inputs if isinstance(inputs, InputFiles) else unstored_objects(inputs)


def unstored_objects(value: Any) -> Any:
    """Return containers of plain values with other objects wrapped: their string may have a secret, or an address."""
    if isinstance(value, _KEPT) or is_resolved_later(value):
        return value
    if type(value) in (list, tuple, set):
        return type(value)(map(unstored_objects, value))
    if type(value) is dict:
        return {key: unstored_objects(item) for key, item in value.items()}
    # Airflow would call a function that is the value of a field.
    wrapper = _Unstored if hasattr(value, "template_fields") and not callable(value) else Unrendered
    return wrapper(value, os.fspath(value) if isinstance(value, os.PathLike) else _shown_step(value))


def unwrap(value: Any) -> Any:
    """Return the value inside an `Unrendered`, and any other value as it is."""
    return value.value if isinstance(value, Unrendered) else value


def unwrap_all(value: Any) -> Any:
    """Return a value and all that its containers hold as `unwrap` does."""
    if type(value) in (list, tuple, set):
        return type(value)(map(unwrap_all, value))
    return {key: unwrap_all(item) for key, item in value.items()} if type(value) is dict else unwrap(value)


def is_resolved_later(value: Any) -> bool:
    """Return whether Airflow puts something else in the place of `value` when the task runs, such as an XCom."""
    return hasattr(value, "resolve") and not isinstance(value, os.PathLike)


def _shown_step(step: Any) -> str:
    while hasattr(step, "func"):  # functools.partial
        step = step.func
    if not callable(step):
        return f"{type(step).__name__} of {len(step)}" if isinstance(step, Sequence | Mapping) else _type_of(step)
    return str(getattr(step, "__qualname__", None) or _type_of(step))


def _type_of(value: Any) -> str:
    return type(value).__qualname__
