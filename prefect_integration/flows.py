"""Makes a Prefect flow of an executor graph, with a task run for each executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect import Flow, State, allow_failure, flow

from prefect_integration.artifacts import artifact_key, publish_table, result_row
from prefect_integration.flow_registry import register
from prefect_integration.tasks import run_ray_pipeline
from ray_pipeline_core import (
    ConfigError,
    RayPipelineExecutor,
    RunCancelledError,
    RunError,
    RunFolderLockedError,
    RunResult,
    topological_order,
)

if TYPE_CHECKING:
    from prefect import Task

    ExecutorTask = Task[[RayPipelineExecutor], dict[str, Any]]


def ray_pipeline_flow(
    executor: RayPipelineExecutor,
    name: str = "ray-pipeline",
    *,
    task: ExecutorTask = run_ray_pipeline,  # pyright: ignore
) -> Flow[[], dict[str, Any]]:
    """Make a flow with a task run for each executor and an edge for each dependency.

    The executors run one after another, parents first, as in `executor.run()`: each may use the whole cluster, and
    its ranks run in parallel. If an executor fails, those that depend on it are not run (their task runs stay
    *NotReady*), unless their `run_on_dependency_fail` is set; the others are. The last executor decides how the flow
    run ends; if it was not run, the failure that is the reason does. A run folder in `depends` makes no edge: its task
    looks at it when it runs. At its end, each flow run publishes a table artifact with a row per executor.

    Every flow run uses the run folders of the executors, so completed ranks are skipped. For a scheduled flow that
    should run all ranks each time, write a flow that builds the executors with a run folder per date and calls
    `ray_pipeline_flow(executor)()`, or give the executors `skip_completed=False`.

    Args:
        executor: the last executor of the graph.
        name: the flow's name.
        task: the Prefect task that runs each executor, such as `run_ray_pipeline.with_options(retries=2)`.

    Returns:
        A flow without parameters that returns the last executor's result as plain JSON. It can be called, served
        and used as a subflow.

    Raises:
        ConfigError: `executor` is not a `RayPipelineExecutor`, or the executors name different clusters.
    """
    specs = executor_specs(executor)

    # Prefect pickles a served flow by value, with the globals that its body uses, so the body is a single call. Older
    # releases evaluate the annotations where it is unpickled, so these name nothing but builtins.
    @flow(name=name)
    def run_ray_pipeline_flow() -> dict:  # type: ignore[type-arg]
        return run_specs(specs, task, name)

    register(run_ray_pipeline_flow)
    return run_ray_pipeline_flow


@dataclass(frozen=True)
class ExecutorSpec:
    """An executor of the flow, in a form that can be pickled.

    Attributes:
        name: the executor's name.
        parameters: its parameters, with no dependencies but run folders.
        parents: the positions of the executors that it depends on.
        runs_on_failure: whether it runs also if these have failed.
    """

    name: str
    parameters: dict[str, Any]
    parents: tuple[int, ...]
    runs_on_failure: bool = False


def executor_specs(executor: RayPipelineExecutor) -> tuple[ExecutorSpec, ...]:
    """Return the specs of an executor and all it depends on, parents first.

    Raises:
        ConfigError: `executor` is not a `RayPipelineExecutor`, or the executors name different clusters.
    """
    if not isinstance(executor, RayPipelineExecutor):
        raise ConfigError(f"executor={executor!r}: must be a RayPipelineExecutor")
    order = topological_order(executor)
    positions = {id(node): position for position, node in enumerate(order)}
    address = _shared_address(order)
    return tuple(
        ExecutorSpec(
            node.name,
            node.parameters_in(order) | {"address": address},
            tuple(positions[id(parent)] for parent in node.dependencies),
            node.run_on_dependency_fail,
        )
        for node in order
    )


def _shared_address(order: Sequence[RayPipelineExecutor]) -> str | None:
    addresses = sorted({node.address for node in order if node.address is not None})
    if len(addresses) > 1:
        raise ConfigError(f"address={addresses!r}: all executors of a flow must use the same cluster")
    return addresses[0] if addresses else None


def run_specs(specs: Sequence[ExecutorSpec], task: ExecutorTask, name: str) -> dict[str, Any]:
    """Run the executors in the current flow run, one after another.

    Their tasks are called, not submitted, so that they run in the flow's own thread, which is the one that Prefect
    interrupts to cancel the flow run.

    Returns:
        The result of the last executor.
    """
    states: list[State[dict[str, Any]]] = []
    try:
        for spec in specs:
            states.append(_run_spec(spec, task, [states[parent] for parent in spec.parents]))
            _raise_if_cancelled(states[-1])
    finally:
        rows = [_state_row(spec, state) for spec, state in zip(specs, states, strict=False)]
        if rows:
            publish_table(f"{artifact_key(name)}-executors", rows, f"Executors of {name}")
    return _deciding_state(specs, states).result()


def _run_spec(spec: ExecutorSpec, task: ExecutorTask, upstream: list[State[dict[str, Any]]]) -> State[dict[str, Any]]:
    wait_for: Any = upstream
    if spec.runs_on_failure and all(map(_has_ended, upstream)):
        # Those that were not run have no task run to wait for, and before Prefect 3.7 would stop this one.
        wait_for = allow_failure([state for state in upstream if state.is_final()])
    return task(RayPipelineExecutor(**spec.parameters), wait_for=wait_for, return_state=True)


def _has_ended(state: State[dict[str, Any]]) -> bool:
    """Return whether the run of an executor is over, also if it failed; else another process is at work on it."""
    error: Any = state.result(raise_on_failure=False) if state.is_failed() else None
    return not isinstance(error, RunFolderLockedError) and getattr(error, "parent_has_ended", True)


def _deciding_state(specs: Sequence[ExecutorSpec], states: Sequence[State[dict[str, Any]]]) -> State[dict[str, Any]]:
    """Return the state of the last executor, or, if that was not run, of the one whose failure is the reason."""
    position = len(states) - 1
    while not states[position].is_final():
        position = next(parent for parent in specs[position].parents if not states[parent].is_completed())
    return states[position]


def _raise_if_cancelled(state: State[dict[str, Any]]) -> None:
    """Raise the error of a stopped executor, so that the flow starts no others, even if they do not depend on it."""
    if state.is_failed() and isinstance(state.result(raise_on_failure=False), RunCancelledError):
        state.result()


def _state_row(spec: ExecutorSpec, state: State[dict[str, Any]]) -> dict[str, Any]:
    outcome: Any = state.result(raise_on_failure=False) if state.is_final() else None
    if isinstance(outcome, RunError):
        outcome = outcome.result
    elif isinstance(outcome, dict):
        outcome = RunResult.from_dict(outcome)
    known = result_row(outcome) if isinstance(outcome, RunResult) else {"executor": spec.name}
    return {"state": state.name} | known
