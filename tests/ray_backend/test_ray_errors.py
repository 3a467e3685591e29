"""What Ray's errors mean, and what is said about them and about resources that are missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ray import exceptions
from ray.core.generated import common_pb2

from ray_pipeline_core.config import RankResources
from ray_pipeline_core.ray_backend.capacity import Node, count_fitting, describe_shortage
from ray_pipeline_core.ray_backend.lost_nodes import LostNodes
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
    failure = classify(error)
    assert failure.message == "ModuleNotFoundError: No module named 'step' (node 10.0.0.1)"
    assert failure.node == "10.0.0.1"


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


NO_CONDA = """Could not create the actor because its associated runtime env failed to be created.
[Node 10.0.0.7] Traceback (most recent call last):
  File "/ray/conda_utils.py", line 238, in exec_cmd
    child = subprocess.Popen(
            ^^^^^^^^^^^^^^^^^
FileNotFoundError: [Errno 2] No such file or directory: 'conda'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/ray/conda_utils.py", line 195, in get_conda_info_json
    raise ValueError(f"Could not find Conda executable at {conda_path}.")
ray.errors.ValueError: Could not find Conda executable at conda.
"""
NO_PACKAGE = """Could not create the actor because its associated runtime env failed to be created.
[Node 10.0.0.7] Traceback (most recent call last):
  File "/ray/agent.py", line 561, in create
    runtime_env_context = await create()
                          ^^^^^^^^^^^^^^
ray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[9] failed with the following details.
Command '['python', '-m', 'pip', 'install', 'no-such-package']' returned non-zero exit status 1.
Last 50 lines of stdout:
    Looking in indexes: https://me:hunter2@index.example/simple
    ERROR: Could not find a version that satisfies the requirement no-such-package
    ERROR: No matching distribution found for no-such-package
"""
NO_PACKAGE_FOR_UV = """Could not create the actor because its associated runtime env failed to be created.
[Node 10.0.0.7] Traceback (most recent call last):
  File "/ray/agent.py", line 561, in create
    runtime_env_context = await create()
ray._private.runtime_env.utils.SubprocessCalledProcessError: Run cmd[1] failed with the following details.
Command '['uv', 'pip', 'install', 'no-such-package']' returned non-zero exit status 1.
Last 50 lines of stdout:
    Using Python 3.11.7 environment at: virtualenv
    error: No solution found when resolving dependencies
      cause: Because no-such-package was not found in the package registry, we can conclude that your requirements \
are unsatisfiable.
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NO_CONDA, "ValueError: Could not find Conda executable at conda"),
        (
            NO_PACKAGE,
            "SubprocessCalledProcessError: Run cmd[9] failed with the following details. Command '['python', '-m', "
            "'pip', 'install', 'no-such-package']' returned non-zero exit status 1. Its output ends: ERROR: Could not "
            "find a version that satisfies the requirement no-such-package ERROR: No matching distribution found for "
            "no-such-package",
        ),
        (
            NO_PACKAGE_FOR_UV,
            "SubprocessCalledProcessError: Run cmd[1] failed with the following details. Command '['uv', 'pip', "
            "'install', 'no-such-package']' returned non-zero exit status 1. Its output ends: error: No solution found "
            "when resolving dependencies cause: Because no-such-package was not found in the package registry, we can "
            "conclude that your requirements are unsatisfiable",
        ),
        ("the node is out of disk", "Failed to set up runtime environment. the node is out of disk"),
    ],
    ids=["traceback", "command", "uv", "neither"],
)
def test_runtime_environment_that_fails_is_told_with_node_and_reason(text: str, reason: str) -> None:
    node = " on node 10.0.0.7" if "[Node" in text else ""
    message = classify(ray_errors.RuntimeEnvSetupError(text)).message
    remedy = "correct runtime_env, or provide what it needs there"
    assert message == f"runtime_env can't be set up{node}: {reason}; {remedy}"


def test_gang_of_nine_on_three_nodes_is_told_how_many_there_is_room_for() -> None:
    gang = RankResources(cpus=1, memory_bytes=0, gpus=0, nodes=9)
    message = describe_shortage([Node({"CPU": 2.0})] * 3, gang)
    assert "there is room for 6 of the 9 members of a gang; lower nodes_per_task, add nodes" in message


def test_worker_killed_for_memory_is_told_with_node_and_remedy_and_without_the_state_of_the_object_store() -> None:
    text = (
        "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: 0a1b) "
        "was 7.1GB used / 8.0GB limit (0.89)\nObject store memory usage: [- objects spillable: 2\n- bytes]\n"
        "Top 10 memory users:\nPID\tMEM(GB)\tCOMMAND\n4711\t3.2\tray::RankWorker.call\n4712\t0.2\tpython driver.py"
    )
    failure = classify(ray_errors.OutOfMemoryError(text))
    assert (failure.kind, failure.node) == ("out_of_memory", "10.0.0.7")
    assert failure.message == (
        "node 10.0.0.7 was running low on memory, so Ray has killed the worker; free memory there, or let fewer "
        "workers share a node with a higher mem_per_cpu_gb"
    )


def actor_died(text: str) -> Any:
    context: Any = common_pb2
    where = {"pid": 4711, "class_name": "RankWorker", "ray_namespace": "0f", "node_ip_address": "10.0.0.7"}
    cause = context.ActorDiedErrorContext(actor_id=b"\1" * 16, error_message=text, **where)
    return ray_errors.ActorDiedError(cause)


@pytest.mark.parametrize(
    ("detail", "message"),
    [
        (
            "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) "
            "the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called.",
            "node 10.0.0.7 has lost the worker's process, which was killed or has crashed; look into its log, and for "
            "a process that the system has killed into `dmesg` there",
        ),
        (
            "Worker exits unexpectedly. Worker exits with an exit code 1. The process receives a SIGTERM.",
            "the worker's process has died: Worker exits unexpectedly. Worker exits with an exit code 1. The process "
            "receives a SIGTERM (node 10.0.0.7)",
        ),
    ],
    ids=["killed", "terminated"],
)
def test_worker_that_died_is_told_with_node_and_without_what_differs_between_workers(detail: str, message: str) -> None:
    reason = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
    )
    assert classify(actor_died(reason + detail)).message == message


@pytest.mark.parametrize(
    ("cause", "message", "preempted"),
    [
        (
            {
                "node_ip_address": "10.0.0.7",
                "error_message": "The actor died because its node has died. Node Id: 0a1b\n\tthe actor's node was "
                "terminated unexpectedly: health check failed due to missing too many heartbeats",
            },
            "the worker's node was terminated unexpectedly: health check failed due to missing too many heartbeats "
            "(node 10.0.0.7); check that machine, or start another node",
            False,
        ),
        ({"node_death_info": {"reason": "AUTOSCALER_DRAIN_PREEMPTED"}}, "the worker's node was drained", True),
    ],
    ids=["died", "drained before the worker was ready"],
)
def test_worker_whose_node_is_gone_is_told_why(cause: dict[str, Any], message: str, preempted: bool) -> None:
    context: Any = common_pb2
    failure = classify(ray_errors.ActorDiedError(context.ActorDiedErrorContext(actor_id=b"\1" * 16, **cause)))
    assert (failure.message, failure.preempted) == (message, preempted)


def test_nodes_that_a_run_has_lost_are_told_and_not_counted() -> None:
    nodes = [Node({}, node_id=name, address=f"10.0.0.{number}") for number, name in enumerate("abcd")]
    lost = LostNodes([*nodes, Node({}, node_id="e", is_alive=False)])
    assert lost.usable(nodes, ()) == nodes
    assert lost.words == ""
    gone = [replace(nodes[0], is_alive=False, death="health check failed"), replace(nodes[1], is_alive=False)]
    before, drained = Node({}, node_id="e", is_alive=False), replace(nodes[2], node_id="new")
    assert lost.usable([*gone, drained, nodes[3], before], {"new"}) == [nodes[3]]
    assert lost.words == (
        "; since the run began, the cluster has lost node 10.0.0.0 (health check failed), node 10.0.0.1 (it has died), "
        "node 10.0.0.2 (drained)"
    )


def test_worker_that_cannot_be_reached_is_told_with_its_node_and_without_its_id() -> None:
    error = ray_errors.ActorUnavailableError("RpcError: RPC error: Socket closed rpc_code: 14", b"\1" * 16)
    assert classify(error, "10.0.0.7").message == (
        "node 10.0.0.7 does not answer, so the worker there counts as lost; check its network, and whether its process "
        "raylet runs"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ray_errors.OutOfDiskError("Local disk is full"),
            "node 10.0.0.7 has no room for more objects, neither in its object store nor on its disk; free disk space "
            "there, and end what holds objects (`ray memory` lists it)",
        ),
        (
            ray_errors.ObjectStoreFullError("Failed to put object 0a1b in object store because it is full."),
            "node 10.0.0.7 has no room for more objects in its object store; end what holds objects there (`ray "
            "memory` lists it), or start the node with a larger --object-store-memory",
        ),
        (
            ray_errors.RayTaskError(
                "prepare",
                "Traceback (most recent call last):\n  File x\nOSError: [Errno 28] No "
                "space left on device: '/tmp/spool'",
                OSError(28, "x"),
                "ray::RankWorker",
                4711,
                "10.0.0.7",
            ),
            "OSError: [Errno 28] No space left on device: '/tmp/spool' (node 10.0.0.7); free disk space there",
        ),
    ],
    ids=["store and disk", "store", "folder for temporary files"],
)
def test_node_without_space_is_told_and_tried_once_more_elsewhere(error: Any, message: str) -> None:
    failure = classify(error.as_instanceof_cause() if isinstance(error, ray_errors.RayTaskError) else error, "10.0.0.7")
    assert failure.message == message
    assert (failure.retry_limit, failure.fatal) == (1, False)
