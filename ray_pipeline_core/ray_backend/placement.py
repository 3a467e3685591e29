"""Starts and releases the actors of workers, and the placement groups of gangs."""

from __future__ import annotations

import functools
from typing import Any

import ray
from ray.core.generated import gcs_pb2
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.ray_backend import head_calls
from ray_pipeline_core.ray_backend.connection import client_worker
from ray_pipeline_core.ray_backend.ray_messages import reason_of
from ray_pipeline_core.ray_backend.ray_versions import check_supported
from ray_pipeline_core.ray_backend.worker_shell import RankWorker
from ray_pipeline_core.redaction import cause_to_show, get_logger

logger = get_logger(__name__)


def start_workers(resources: RankResources) -> tuple[PlacementGroup | None, list[Any]]:
    """Request the workers of one slot from Ray, without waiting for them.

    Returns:
        The placement group (None for a single node) and one actor handle per node.
    """
    options = _actor_options(resources)
    worker = _actor_class()
    if resources.nodes == 1:
        return None, [worker.options(**options).remote()]
    group = _placement_group(resources)
    options.pop("label_selector", None)  # the bundles have it
    actors: list[Any] = []
    try:
        for index in range(resources.nodes):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            actors.append(worker.options(**options | {"scheduling_strategy": strategy}).remote())
    except BaseException:
        release_workers(group, actors)
        raise
    return group, actors


def _actor_class() -> Any:
    # Ray exports a class once per connection, and keeps it; Ray Client can't tell one connection from the next.
    return _exported_once() if client_worker() is None else ray.remote(RankWorker)


@functools.cache
def _exported_once() -> Any:
    return ray.remote(RankWorker)


def check_options(resources: RankResources) -> None:
    """Raise `ConfigError` if Ray does not accept an actor option or its value."""
    check_supported(resources.ray_options)
    try:
        _actor_class().options(**_actor_options(resources))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"ray_remote_kwargs with {', '.join(resources.ray_options)}: Ray refuses these actor options; "
            f"correct or remove the one that it names: {reason_of(error)}"
        ) from cause_to_show(error)


def _actor_options(resources: RankResources) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory_bytes:
        options["memory"] = resources.memory_bytes
    # Only the driver retries, since it counts the attempts; it would not notice Ray's own restarts.
    return options | dict(resources.ray_options) | {"max_restarts": 0, "max_task_retries": 0}


def _placement_group(resources: RankResources) -> PlacementGroup:
    bundle = resources.reserved() or {"CPU": 0.001}  # Ray refuses an empty bundle
    labels = resources.ray_options.get("label_selector")
    selectors: Any = [labels] * resources.nodes if labels else None  # Ray's annotation lacks its default, None
    group: PlacementGroup = placement_group(
        [bundle] * resources.nodes,
        strategy=resources.placement_strategy,
        bundle_label_selector=selectors,
    )
    return group


def is_removed(group: PlacementGroup, head_address: str | None) -> bool:
    """Return whether the placement group was removed; False if Ray can't tell.

    Args:
        group: the placement group.
        head_address: host and port of the head's control service; None = ask Ray Client.
    """
    return _state_of(group, head_address) == "REMOVED"


def is_pending(group: PlacementGroup, head_address: str | None) -> bool:
    """Return whether the placement group waits for nodes with room for it; False if Ray can't tell.

    Args:
        group: the placement group.
        head_address: host and port of the head's control service; None = ask Ray Client.
    """
    return _state_of(group, head_address) in ("PENDING", "RESCHEDULING")


def _state_of(group: PlacementGroup, head_address: str | None) -> str:
    try:
        if head_address is None:
            return str(placement_group_table(group).get("state"))
        return head_calls.placement_group_state(head_address, group.id.binary())
    except Exception:
        logger.debug("can't tell the state of %r", group, exc_info=True)
        return ""


def has_died(actors: list[Any]) -> bool:
    """Return whether one of the workers is known to be dead; False if Ray has no such (private) function any more."""
    try:
        return any(actor._get_local_state() == gcs_pb2.ActorTableData.DEAD for actor in actors)  # type: ignore[attr-defined] # pyright: ignore
    except Exception:
        logger.debug("can't tell the state of %r", actors, exc_info=True)
        return False


def release_workers(group: PlacementGroup | None, actors: list[Any]) -> None:
    """Kill the workers of a slot, and remove its placement group; those that are already gone are ignored."""
    for actor in actors:
        try:
            ray.kill(actor, no_restart=True)
        except Exception:
            logger.debug("could not kill %r", actor, exc_info=True)
    if group is None:
        return
    try:
        remove_placement_group(group)
    except Exception:
        logger.debug("could not remove %r", group, exc_info=True)
