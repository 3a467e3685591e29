"""The graph of executors: in which order they come, what a plan of it says, and its run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from typing import TypeVar

from ray_pipeline_core.config import DEFAULT_RERUN_ON
from ray_pipeline_core.driver.graph_run import MAX_RUNS_AT_ONCE, GraphRun
from ray_pipeline_core.driver.parents import warn_of_parent_folders
from ray_pipeline_core.driver.pipeline_run import BackendSource
from ray_pipeline_core.driver.planning import ExecutorNode, RunOptions, RunSpec, prepare_run
from ray_pipeline_core.driver.run_plans import plan_parents, plan_run
from ray_pipeline_core.driver.shared_observers import with_shared_observers
from ray_pipeline_core.errors import ConfigError, RayPipelineError
from ray_pipeline_core.result import RunPlan, RunResult
from ray_pipeline_core.storage.folder_owners import check_folders, check_parent_folders, is_among
from ray_pipeline_core.validation import require

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
    to_run, of_parents = plan_parents(earlier) if "parents" in spec.rerun_on else (set(), [])
    plan = plan_run(spec, count_slots, to_run)
    of_folders = (warn_of_parent_folders(node, order) for node in order)
    return replace(plan, warnings=(*plan.warnings, *of_parents, *chain.from_iterable(of_folders)))


def run_graph(
    last: ExecutorNode,
    backends: BackendSource,
    stop: threading.Event,
    options_of: OptionsOf = lambda node: RunOptions(),
    runs_at_once: int = MAX_RUNS_AT_ONCE,
) -> RunResult:
    """Run an executor and all it depends on, each once, when its parents have ended; what is complete is not run again.

    What depends on an executor that failed, or on a run folder that is not complete, is not run, unless its
    `run_on_dependency_fail` is set. What doesn't is run, so that the next try has less to do.

    Args:
        last: the executor to end with.
        backends: where the runs get their workers; it is closed at the end.
        stop: ends the runs when set.
        options_of: returns what this call changes for an executor.
        runs_at_once: the most executors that run at the same time.

    Returns:
        The result of `last`, which has a warning for each of its parents that failed and was allowed to.

    Raises:
        RunCancelledError: the run was stopped.
        DependencyFailedError: a parent of `last` failed; `.result` is that parent's.
        RayPipelineError: `last` itself failed.
    """
    with contextlib.closing(backends):
        order = execution_order(last)
        to_run = [position for position, node in enumerate(order) if node is last or not _can_be_left_out(node)]
        # All pipelines are loaded first: a mistake in the last one should not cost the hours of the others.
        specs = with_shared_observers(_prepare_runs([order[position] for position in to_run], options_of))
        graph = GraphRun(order, dict(zip(to_run, specs, strict=True)), backends, stop, runs_at_once)
        ending = graph.run(_parents_by_position(order))
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


def _parents_by_position(order: Sequence[ExecutorNode]) -> dict[int, list[int]]:
    """Return what must have ended before each executor: its parents, and those whose run folders it depends on."""
    positions = {id(node): position for position, node in enumerate(order)}
    return {
        position: [
            *(positions[id(parent)] for parent in node.dependencies),
            *(before for before in range(position) if is_among(order[before].logging_dir, node.parent_folders)),
        ]
        for position, node in enumerate(order)
    }
