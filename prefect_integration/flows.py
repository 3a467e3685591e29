"""A Prefect flow made of an executor and all it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect import Flow, State, flow

from prefect_integration.artifacts import artifact_key, publish_table, result_row
from prefect_integration.tasks import run_ray_pipeline
from ray_pipeline_core import (
    ConfigError,
    RayPipelineExecutor,
    RunCancelledError,
    RunError,
    RunResult,
    topological_order,
)

if TYPE_CHECKING:
    from prefect import Task

    ExecutorTask = Task[[RayPipelineExecutor], dict[str, Any]]


def ray_pipeline_flow(
    executor: RayPipelineExecutor, name: str = "ray-pipeline", *, task: ExecutorTask = run_ray_pipeline
) -> Flow[[], dict[str, Any]]:
    """A flow with a task run for each executor and an edge for each dependency.

    The executors run one after another, parents first, as in `executor.run()`: each may use the whole cluster, and
    its ranks run side by side. When one fails, what depends on it is not run (its task run stays *NotReady*), what
    doesn't is, and the flow fails with the first failure. Each run of the flow ends with a table artifact of one row
    per executor.

    The run folders are those of the executors, whenever the flow runs. A scheduled flow that should do its work anew
    each time builds its executors inside a flow of the user's own, with a run folder per date, and calls
    `ray_pipeline_flow(executor)()` there; or its executors have `skip_completed=False`.

    Args:
        executor: the last executor.
        name: the flow's name.
        task: the Prefect task that runs each executor, such as `run_ray_pipeline.with_options(retries=2)`.

    Returns:
        A flow without parameters that returns the last executor's result as plain JSON. It can be called, served
        and nested in another flow.

    Raises:
        ConfigError: this is no executor, or the executors name different clusters.
    """
    stages = plan_stages(executor)

    # Prefect pickles a served flow by value, together with the globals it names, so the body is one call.
    @flow(name=name)
    def run_ray_pipeline_flow() -> dict[str, Any]:
        return run_stages(stages, task, name)

    return run_ray_pipeline_flow


@dataclass(frozen=True)
class Stage:
    """An executor of the flow, in a form that can be pickled.

    Attributes:
        name: its name.
        parameters: its parameters, without what it depends on.
        parents: positions of the stages it depends on.
    """

    name: str
    parameters: dict[str, Any]
    parents: tuple[int, ...]


def plan_stages(executor: RayPipelineExecutor) -> tuple[Stage, ...]:
    """The stages of a flow, parents first.

    Raises:
        ConfigError: this is no executor, or the executors name different clusters.
    """
    if not isinstance(executor, RayPipelineExecutor):
        raise ConfigError(f"executor={executor!r}: must be a RayPipelineExecutor")
    order = topological_order(executor)
    positions = {id(link): position for position, link in enumerate(order)}
    shared = {"depends": None, "address": _shared_address(order)}
    return tuple(
        Stage(link.name, link.parameters() | shared, tuple(positions[id(parent)] for parent in link.dependencies))
        for link in order
    )


def _shared_address(order: Sequence[RayPipelineExecutor]) -> str | None:
    addresses = sorted({link.address for link in order if link.address is not None})
    if len(addresses) > 1:
        raise ConfigError(f"address={addresses!r}: all executors of a flow must use the same cluster")
    return addresses[0] if addresses else None


def run_stages(stages: Sequence[Stage], task: ExecutorTask, name: str) -> dict[str, Any]:
    """Runs the stages in the current flow run, one after another.

    They are called rather than submitted: so it is the flow's own thread that waits for a run, and that is the one
    which Prefect interrupts to cancel it.

    Returns:
        The last one's result.
    """
    states: list[State[dict[str, Any]]] = []
    try:
        for stage in stages:
            upstream = [states[parent] for parent in stage.parents]
            states.append(_run_stage(stage, task, upstream))
            _raise_if_cancelled(states[-1])
    finally:
        rows = [_state_row(stage, state) for stage, state in zip(stages, states, strict=False)]
        if rows:
            publish_table(f"{artifact_key(name)}-executors", rows, f"Executors of {name}")
    failed = [state for state in states if state.is_final() and not state.is_completed()]
    return (failed or states[-1:])[0].result()


def _run_stage(stage: Stage, task: ExecutorTask, upstream: list[State[dict[str, Any]]]) -> State[dict[str, Any]]:
    return task(RayPipelineExecutor(**stage.parameters), wait_for=upstream, return_state=True)


def _raise_if_cancelled(state: State[dict[str, Any]]) -> None:
    """Ends the flow: what was not started yet must not be, however little it has to do with this executor."""
    if state.is_failed() and isinstance(state.result(raise_on_failure=False), RunCancelledError):
        state.result()


def _state_row(stage: Stage, state: State[dict[str, Any]]) -> dict[str, Any]:
    outcome: Any = state.result(raise_on_failure=False) if state.is_final() else None
    if isinstance(outcome, RunError):
        outcome = outcome.result
    elif isinstance(outcome, dict):
        outcome = RunResult.from_dict(outcome)
    known = result_row(outcome) if isinstance(outcome, RunResult) else {"executor": stage.name}
    return {"state": state.name} | known
