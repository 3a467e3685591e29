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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (NO_CONDA, "ValueError: Could not find Conda executable at conda."),
        (
            NO_PACKAGE,
            "SubprocessCalledProcessError: Run cmd[9] failed with the following details. Command '['python', '-m', "
            "'pip', 'install', 'no-such-package']' returned non-zero exit status 1. Its output ends: ERROR: Could not "
            "find a version that satisfies the requirement no-such-package ERROR: No matching distribution found for "
            "no-such-package",
        ),
        ("the node is out of disk", "Failed to set up runtime environment. the node is out of disk"),
    ],
    ids=["traceback", "command", "neither"],
)
def test_runtime_environment_that_fails_is_told_with_node_and_reason(text: str, reason: str) -> None:
    node = " on node 10.0.0.7" if "[Node" in text else ""
    message = classify(ray_errors.RuntimeEnvSetupError(text)).message
    assert message == f"runtime_env can't be set up{node}: {reason}"


def test_gang_of_nine_on_three_nodes_is_told_how_many_there_is_room_for() -> None:
    gang = RankResources(cpus=1, memory_bytes=0, gpus=0, nodes=9)
    message = describe_shortage([Node({"CPU": 2.0})] * 3, gang)
    assert "there is room for 6 of the 9 members of a gang; lower nodes_per_task, add nodes" in message


def test_message_about_memory_is_not_cut_where_it_lists_workers() -> None:
    text = (
        "Memory on the node (IP: 10.0.0.7) was 7 / 8 GB, which is running low on memory.\nTop 10 memory users:\n"
        "PID\tMEM(GB)\tCOMMAND\n4711\t3.2\tray::RankWorker.call\n4712\t0.2\tpython driver.py"
    )
    message = classify(ray_errors.OutOfMemoryError(text)).message
    assert "running low on memory" in message
    assert "ray::RankWorker.call 4712" in message.replace("\t", " ")
