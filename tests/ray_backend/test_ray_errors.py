"""What Ray's errors mean, and what is said about them and about resources that are missing."""

from __future__ import annotations

from typing import Any

import pytest
from ray import exceptions
from ray.core.generated import common_pb2

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.capacity import Node, count_fitting, describe_shortage
from ray_pipeline_core.ray_backend.ray_errors import classify

ray_errors: Any = exceptions  # without annotations
SMALL, LARGE = Node({"CPU": 1.0}), Node({"CPU": 8.0}, {"disk": "fast"})


def task_error() -> Any:
    trace = (
        "\x1b[36mray::RankWorker.prepare()\x1b[39m (pid=4711, ip=10.0.0.1)\n"
        '  File "/venv/lib/worker.py", line 7, in prepare\n'
        "    import step\n"
        "ModuleNotFoundError: No module named 'step'"
    )
    return ray_errors.RayTaskError("prepare", trace, ModuleNotFoundError("step"), "ray::RankWorker", 4711, "10.0.0.1")


def node_died() -> Any:
    context: Any = common_pb2
    message = "The actor died because its node has died. Node Id: 0a1b"
    cause = context.ActorDiedErrorContext(actor_id=b"\0" * 16, error_message=message, never_started=True)
    return ray_errors.ActorDiedError(cause)


@pytest.mark.parametrize("error", [task_error(), ray_errors.ActorDiedError(task_error())], ids=["call", "constructor"])
def test_message_about_a_worker_that_raised_is_the_last_line_of_the_traceback(error: Exception) -> None:
    assert classify(error).message == "ModuleNotFoundError: No module named 'step'"


def test_message_has_no_colour_codes() -> None:
    failure = classify(ray_errors.RaySystemError("\x1b[1;31mthe raylet is gone\x1b[0m"))
    assert failure.message == "System error: the raylet is gone"


@pytest.mark.parametrize(
    ("error", "died"),
    [
        (node_died(), True),
        (ray_errors.NodeDiedError("node 0a1b died"), True),
        (ray_errors.ActorDiedError(), False),
        (ray_errors.ActorDiedError(task_error()), False),
    ],
)
def test_worker_that_died_with_its_node_is_known_as_such(error: Exception, died: bool) -> None:
    failure = classify(error)
    assert (failure.kind, failure.node_died) == ("worker_lost", died)


@pytest.mark.parametrize(
    ("strategy", "members"), [("STRICT_SPREAD", 2), ("STRICT_PACK", 8), ("SPREAD", 9), ("PACK", 9)]
)
def test_gang_that_does_not_fit_is_told_how_many_of_its_members_would(strategy: str, members: int) -> None:
    gang = RankResources(cpus=1, memory_bytes=0, gpus=0, nodes=12, placement_strategy=strategy)
    message = describe_shortage([SMALL, LARGE], gang)
    assert f"with placement_strategy='{strategy}' there is room for {members} of the 12 members of a gang" in message


def test_group_that_fits_on_no_node_is_told_what_the_largest_has() -> None:
    group = RankResources(cpus=16, memory_bytes=0, gpus=0)
    assert "one node has at most {CPU: 8}; request less" in describe_shortage([SMALL, LARGE], group)


@pytest.mark.parametrize(
    ("selector", "fitting"),
    [("fast", 8), ("slow", 0), ("!fast", 1), ("in(slow, fast)", 8), ("!in(slow, fast)", 1), ("!slow", 9)],
)
def test_group_fits_only_on_nodes_with_its_labels(selector: str, fitting: int) -> None:
    group = RankResources(cpus=1, memory_bytes=0, gpus=0, ray_options={"label_selector": {"disk": selector}})
    assert count_fitting([SMALL, LARGE], group) == fitting


def test_label_that_no_node_has_is_named_with_those_that_there_are() -> None:
    group = RankResources(cpus=1, memory_bytes=0, gpus=0, ray_options={"label_selector": {"disk": "slow"}})
    message = describe_shortage([SMALL, LARGE], group)
    assert "no node has the labels of ray_remote_kwargs['label_selector']={'disk': 'slow'}" in message
    assert "the nodes have disk=fast;" in message


def test_accelerator_that_no_node_has_is_named() -> None:
    group = RankResources(cpus=1, memory_bytes=0, gpus=0, ray_options={"accelerator_type": "A100"})
    node = Node({"CPU": 8.0, "accelerator_type:T4": 1.0})
    assert count_fitting([node], group) == 0
    message = describe_shortage([node], group)
    assert "asked for 1 node(s) with {CPU: 1, accelerator_type: A100} each" in message
    assert "nodes have {CPU: 8, accelerator_type: T4}" in message
    assert "at most {CPU: 8, accelerator_type: none of that type}" in message
