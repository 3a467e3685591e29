"""The arguments of mapped tasks, all of which Airflow stores: those that must not be stored are wrapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import XComArg

from airflow_provider.folder_specs import names_map_index, split_folder
from airflow_provider.unrendered import Unrendered, hidden, is_resolved_later, unwrap

MARK = "_is_mapped"
"""The argument by which the operator's constructor knows that it makes an instance of a mapped task."""


class SharedFolder(Unrendered):
    """A run folder in `partial()`, which all instances of a mapped task would share."""


class PartialPipeline:
    """A partial operator that hides what `expand` and `expand_kwargs` are given; it has these methods alone.

    Args:
        partial: Airflow's partial operator. What its arguments hold is wrapped in place.
    """

    def __init__(self, partial: Any) -> None:
        self._partial = partial
        given = partial.kwargs
        given.update({name: hidden(name, value) for name, value in given.items()}, **{MARK: True})
        if given.get("logging_dir") is not None:
            given["logging_dir"] = _shared(given["logging_dir"])

    def expand(self, **mapped: Any) -> Any:
        """Return the mapped operator, with an instance for each combination of these lists of values."""
        hiding = {name: _each_hidden(name, values) for name, values in mapped.items()}
        folders = hiding.get("logging_dir")
        return self._with_edges(self._partial.expand(**hiding), *(folders if isinstance(folders, list) else ()))

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> Any:
        """Return the mapped operator, with an instance for each of these dicts of arguments."""
        hiding = [_all_hidden(each) for each in kwargs] if isinstance(kwargs, Sequence) else kwargs
        folders = [each["logging_dir"] for each in hiding if "logging_dir" in each] if hiding is not kwargs else []
        return self._with_edges(self._partial.expand_kwargs(hiding, strict=strict), *folders)

    def _with_edges(self, operator: Any, *folders: Any) -> Any:
        """Add the edges from the tasks whose XComs name a folder that is wrapped, where Airflow does not see them."""
        for folder in (*folders, operator.partial_kwargs.get("logging_dir")):
            path, _ = split_folder(unwrap(folder))
            if isinstance(path, XComArg):
                XComArg.apply_upstream_relationship(operator, path)
        return operator


def has_shared_folder(folder: Any, operator_arguments: dict[str, Any]) -> bool:
    """Return whether all instances, if the task has several, are given the same run folder.

    The others have an expanded one, or one with `map_index` in a template.

    Args:
        folder: the `logging_dir` that the operator's constructor was given.
        operator_arguments: the arguments of Airflow's operator, from which this takes `MARK`.
    """
    path, _ = split_folder(unwrap(folder))
    if operator_arguments.pop(MARK, False):
        is_default = folder is not None and operator_arguments.get("default_args", {}).get("logging_dir") is folder
        return (is_default or isinstance(folder, SharedFolder)) and not names_map_index(path)
    is_argument_of_group = is_resolved_later(path) and not isinstance(path, XComArg)
    return not names_map_index(path) and not is_argument_of_group


def _shared(folder: Any) -> SharedFolder:
    path, _ = split_folder(unwrap(folder))
    return SharedFolder(unwrap(folder), path if isinstance(path, str) else "<not shown>")


def _each_hidden(name: str, values: Any) -> Any:
    return [hidden(name, value) for value in values] if isinstance(values, Sequence) else values


def _all_hidden(arguments: Any) -> Any:
    if not isinstance(arguments, Mapping):
        return arguments
    return {name: hidden(name, value) for name, value in arguments.items()}
