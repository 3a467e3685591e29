"""The graph of executors: in which order they run, and which ones a failure stops."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from typing import TypeVar

from ray_pipeline_core.config import DEFAULT_RERUN_ON
from ray_pipeline_core.driver.parents import Ending, check_parents, warn_of_parent_folders
from ray_pipeline_core.driver.pipeline_run import BackendSource, PipelineRun
from ray_pipeline_core.driver.planning import ExecutorNode, RunOptions, RunSpec, prepare_run
from ray_pipeline_core.driver.run_plans import folders_to_run, plan_run
from ray_pipeline_core.errors import ConfigError, RayPipelineError, RunCancelledError
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.storage.folder_owners import check_folders, check_parent_folders
from ray_pipeline_core.validation import require

logger = get_logger(__name__)

Node = TypeVar("Node")
OptionsOf = Callable[[ExecutorNode], RunOptions]


def order_by_dependency(
    last: Node, parents_of: Callable[[Node], Iterable[Node]], label: Callable[[Node], str] = str
) -> list[Node]:
    """Return all nodes that `last` depends on, parents first, each once, and `last` at the end.

    Nodes are told apart by identity, so two equal executors are two nodes.

    Args:
        last: the node to end with.
        parents_of: returns the nodes that must come before a node.
        label: returns a node's name for messages.

    Raises:
        ConfigError: the graph has a cycle; the message names its members.
    """
    by_id = _reachable(last, parents_of)
    graph = {key: [id(parent) for parent in parents_of(node)] for key, node in by_id.items()}
    try:
        return [by_id[key] for key in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        members = " -> ".join(label(by_id[key]) for key in error.args[1])
        raise ConfigError(f"depends={members}: must not form a cycle; remove one of these dependencies") from None


def _reachable(last: Node, parents_of: Callable[[Node], Iterable[Node]]) -> dict[int, Node]:
    found: dict[int, Node] = {}
    to_visit = [last]
    while to_visit:
        node = to_visit.pop()
        if id(node) not in found:
            found[id(node)] = node
            to_visit.extend(reversed(list(parents_of(node))))
    return found


def execution_order(last: ExecutorNode) -> list[ExecutorNode]:
    """Return all executors that `last` depends on, parents first, each once, and `last` at the end.

    Raises:
        ConfigError: they depend on one another in a circle, their run folders are not separate, or one depends on the
            run folder of one that comes after it.
    """
    order = order_by_dependency(last, lambda node: node.dependencies, lambda node: repr(node.name))
    folders = [(node.name, node.logging_dir) for node in order]
    check_folders(folders)
    for position, node in enumerate(order):
        check_parent_folders(node.name, node.parent_folders, folders[position:])
    return order


def shared_address(last: ExecutorNode) -> str | None:
    """Return the Ray address that an executor and all it depends on share; None if none of them names one.

    Raises:
        ConfigError: they name several.
    """
    addresses = {node.address for node in execution_order(last)} - {None}
    allowed = "all executors of a chain must use the same cluster"
    require(len(addresses) <= 1, "address", sorted(map(str, addresses)), allowed)
    return addresses.pop() if addresses else None


def plan_graph(last: ExecutorNode, count_slots: Callable[[], int | None]) -> RunPlan:
    """Return the plan of `last`, once every pipeline of the graph has been loaded.

    Args:
        last: the executor.
        count_slots: returns how many groups the cluster could run at once; None if no cluster is reachable.

    Raises:
        PipelineLoadError: a pipeline can't be imported, called or pickled.
    """
    order = execution_order(last)
    *earlier, spec = _prepare_runs(order, lambda node: RunOptions())
    plan = plan_run(spec, count_slots, folders_to_run(earlier) if "parents" in spec.rerun_on else ())
    return replace(plan, warnings=(*plan.warnings, *chain.from_iterable(map(warn_of_parent_folders, order))))


def run_graph(
    last: ExecutorNode,
    backends: BackendSource,
    stop: threading.Event,
    options_of: OptionsOf = lambda node: RunOptions(),
) -> RunResult:
    """Run an executor and all it depends on, parents first, each once; what ran well before is not run again.

    What depends on an executor that failed, or on a run folder that is not complete, is not run, unless its
    `run_on_dependency_fail` is set. What doesn't is run, so that the next try has less to do.

    Args:
        last: the executor to end with.
        backends: where the runs get their workers; it is closed at the end.
        stop: ends the runs when set.
        options_of: returns what this call changes for an executor.

    Returns:
        The result of `last`, which has a warning for each of its parents that failed and was allowed to.

    Raises:
        RunCancelledError: the run was stopped.
        DependencyFailedError: a parent of `last` failed; `.result` is that parent's.
        RayPipelineError: `last` itself failed.
    """
    with contextlib.closing(backends):
        order = [node for node in execution_order(last) if node is last or not _can_be_left_out(node)]
        # All pipelines are loaded first: a mistake in the last one should not cost the hours of the others.
        specs = _prepare_runs(order, options_of)
        endings: dict[int, Ending] = {}
        for position, node in enumerate(order):
            try:
                warnings = check_parents(node, endings)
            except RayPipelineError as error:
                endings[id(node)] = error
                continue
            spec, *later = specs[position:]
            endings[id(node)] = _run_node(node, replace(spec, warnings=warnings), later, backends, stop)
    ending = endings[id(last)]
    if isinstance(ending, RayPipelineError):
        raise ending
    return ending


def _can_be_left_out(node: ExecutorNode) -> bool:
    """Return whether an executor has succeeded in this process, and can't have got anything to do since."""
    has_completed = node.completed_result is not None and node.completed_result.ok
    return has_completed and not _has_inputs(node)


def _has_inputs(last: ExecutorNode) -> bool:
    """Return whether an executor, or one that it depends on, has inputs, which may have changed."""
    return any(node.source is not None for node in execution_order(last))


def _prepare_runs(order: Sequence[ExecutorNode], options_of: OptionsOf) -> list[RunSpec]:
    rerun_on = DEFAULT_RERUN_ON if _has_inputs(order[-1]) else ()
    return [
        prepare_run(node, [one.name for one in execution_order(node)], options_of(node), rerun_on) for node in order
    ]


def _run_node(
    node: ExecutorNode, spec: RunSpec, later: Sequence[RunSpec], backends: BackendSource, stop: threading.Event
) -> Ending:
    """Run one executor, and return its result, or why it failed."""
    try:
        result = PipelineRun(spec, stop).execute(backends, [one.config for one in later])
    except RunCancelledError:
        raise
    except RayPipelineError as error:
        if later:
            logger.error(
                "executor %r failed, so the executors that depend on it are not run, unless they have "
                "run_on_dependency_fail=True: %s",
                node.name,
                error,
            )
        return error
    finally:
        spec.folder.folder.remove_partial_directory()
    node.completed_result = result
    return result
