"""Runs executors in the order of their dependencies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from ray_pipeline_core.errors import DependencyFailedError, RayPipelineError, RunCancelledError, RunError
from ray_pipeline_core.result import RunResult

logger = logging.getLogger(__name__)


class Link(Protocol):
    """An executor as the chain sees it."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def dependencies(self) -> Iterable[Link]:
        """What must be complete before it starts."""


AnyLink = TypeVar("AnyLink", bound=Link)


def run_in_order(order: Sequence[AnyLink], run_one: Callable[[AnyLink], RunResult]) -> RunResult:
    """Runs each executor of `order` once, parents first.

    What depends on a failed one is not started; what doesn't is, so that the next try has less to do.

    Returns:
        The last one's result.

    Raises:
        RunCancelledError: the run was stopped.
        DependencyFailedError: a parent of the last one failed; `.result` is that parent's.
        RayPipelineError: the last one's own failure.
    """
    errors: dict[int, RayPipelineError] = {}
    result: RunResult | None = None
    for link in order:
        broken = [parent for parent in link.dependencies if id(parent) in errors]
        if broken:
            errors[id(link)] = _dependency_error(link, broken[0], errors[id(broken[0])])
            continue
        try:
            result = run_one(link)
        except RunCancelledError:
            raise
        except RayPipelineError as error:
            errors[id(link)] = error
            if link is not order[-1]:
                logger.error("executor %r failed, so what depends on it is not run: %s", link.name, error)
    if id(order[-1]) in errors:
        raise errors[id(order[-1])]
    assert result is not None, "an order has at least one executor"
    return result


def _dependency_error(link: Link, parent: Link, cause: RayPipelineError) -> DependencyFailedError:
    if isinstance(cause, DependencyFailedError):  # then the parent did not run either: name the one that failed
        parent_name, root = cause.parent_name, cause.__cause__
    else:
        parent_name, root = parent.name, cause
    result = root.result if isinstance(root, RunError) else None
    message = f"executor {link.name!r} was not run, because {parent_name!r}, which it depends on, failed: {root}"
    error = DependencyFailedError(message, result)
    error.parent_name, error.__cause__ = parent_name, root
    return error
