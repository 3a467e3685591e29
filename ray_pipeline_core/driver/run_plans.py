"""What `plan()` tells: what a run would do now, without running anything."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ray_pipeline_core.driver.folder_state import FolderState, inspect_folder
from ray_pipeline_core.driver.planning import RunSpec, make_plan, order_groups, pending_ranks
from ray_pipeline_core.errors import ConfigError, RunFolderMismatchError
from ray_pipeline_core.result import RunPlan
from ray_pipeline_core.storage.attempt_history import AttemptHistory, EarlierAttempts


def plan_parents(specs: Sequence[RunSpec]) -> tuple[set[str], list[str]]:
    """Return the folders of those runs, parents first, in which ranks would run, and their warnings."""
    found: set[str] = set()
    warnings = []
    for spec in specs:
        state = _state(spec, found)
        warnings += [f"executor {spec.name!r}: {warning}" for warning in state.warnings]
        if len(state.completed) < state.world_size:
            found.add(spec.folder.url)
    return found, warnings


def plan_run(spec: RunSpec, count_slots: Callable[[], int | None], parents_to_run: Collection[str] = ()) -> RunPlan:
    """Return what a run would do now; where it would be refused, a warning of the plan says so.

    Args:
        spec: the run.
        count_slots: returns how many groups the cluster could run at once; None if no cluster is reachable. It is
            called last, since it may connect to the cluster.
        parents_to_run: the folders of runs whose ranks would run before.
    """
    state = _state(spec, parents_to_run)
    pending = pending_ranks(state.world_size, state.completed)
    earlier = AttemptHistory(spec.folder.folder).read() if pending else EarlierAttempts()
    groups = order_groups(pending, spec.config, earlier, state.deal)
    dealt = spec.for_world_size(state.world_size)
    return make_plan(dealt, state.completed, groups, state.reasons, state.warnings, count_slots())


def _state(spec: RunSpec, parents_to_run: Collection[str]) -> FolderState:
    parents = {parent.folder.url for parent in spec.parents}
    try:
        return inspect_folder(spec, parents.intersection(parents_to_run))
    except RunFolderMismatchError as error:
        completed = frozenset(spec.folder.completed_ranks(spec.config.tasks))
        return FolderState(spec.config.tasks, completed, warnings=(str(error),))
    except ConfigError as error:
        return FolderState(spec.config.tasks, warnings=(str(error),))
