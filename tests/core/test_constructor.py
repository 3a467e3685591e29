"""Wrong arguments are refused by the constructor, and the right ones are datatrove's."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import ConfigError, RayPipelineExecutor, RetryPolicy, topological_order
from ray_pipeline_core.testing import run_in_process


def step(data: Any, rank: int, world_size: int) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": 0}, r"tasks=0: must be an integer of at least 1"),
        ({"tasks": 1.5}, r"tasks=1\.5: must be an integer"),
        ({"tasks": True}, r"tasks=True: must be an integer"),
        ({"workers": 0}, r"workers=0: must be at least 1, or -1"),
        ({"workers": -2}, r"workers=-2: must be at least 1, or -1"),
        ({"cpus_per_task": -1}, r"cpus_per_task=-1: must be a number of at least 0"),
        ({"mem_per_cpu_gb": -0.5}, r"mem_per_cpu_gb=-0\.5"),
        ({"mem_per_cpu_gb": float("nan")}, r"mem_per_cpu_gb=nan"),
        ({"gpus_per_task": -1}, r"gpus_per_task=-1"),
        ({"nodes_per_task": 0}, r"nodes_per_task=0"),
        ({"tasks_per_job": 0}, r"tasks_per_job=0"),
        ({"randomize_start_duration": -1}, r"randomize_start_duration=-1"),
        ({"time": 0}, r"time=0: must be a number above 0"),
        ({"run_timeout": -1}, r"run_timeout=-1"),
        ({"startup_timeout": 0}, r"startup_timeout=0"),
        ({"skip_completed": "yes"}, r"skip_completed='yes': must be True or False"),
        ({"log_first": 1}, r"log_first=1: must be True or False"),
        ({"max_failed_ranks": -1}, r"max_failed_ranks=-1"),
        ({"max_failed_ranks": 1.5}, r"max_failed_ranks=1\.5: must be a count of ranks, or a fraction"),
        ({"max_ranks_per_worker": 0}, r"max_ranks_per_worker=0"),
        ({"placement_strategy": "NEAR"}, r"placement_strategy='NEAR': must be one of .*STRICT_SPREAD"),
        ({"retry": 3}, r"retry=3: must be a RetryPolicy"),
        ({"ray_remote_kwargs": ["x"]}, r"ray_remote_kwargs=\['x'\]: must be a dict"),
        ({"ray_remote_kwargs": {"max_restarts": 2}}, r"'max_restarts'\]=2: not allowed here; use retry"),
        (
            {"ray_remote_kwargs": {"num_cpus": 2}, "cpus_per_task": 4},
            r"'num_cpus'\]=2: given both ways.*cpus_per_task=4",
        ),
        ({"ray_remote_kwargs": {"num_gpus": 2}, "gpus_per_task": 1}, r"'num_gpus'\]=2: given both ways"),
        ({"pipeline": []}, r"pipeline=\[\]: must have at least one step"),
        ({"pipeline": [step, 3]}, r"pipeline\[1\]=3: must be callable"),
        ({"pipeline": ["text"]}, r"pipeline\[0\]='text': must be callable"),
        ({"pipeline": None}, r"pipeline=None: must be a list of steps"),
        ({"pipeline": "no_colon"}, r"pipeline='no_colon': must have the form 'package\.module:factory'"),
        ({"pipeline": "a:b:c"}, r"must have the form"),
        ({"pipeline_kwargs": {"a": 1}}, r"pipeline_kwargs=.*needs a pipeline given as an import path"),
        ({"pipeline": "a:b", "pipeline_kwargs": {1: 2}}, r"pipeline_kwargs=.*by name"),
        ({"depends": 5}, r"depends=5: must be a RayPipelineExecutor, a run folder, or a list of them"),
        ({"run_on_dependency_fail": "no"}, r"run_on_dependency_fail='no': must be True or False"),
        ({"observers": 3}, r"observers=3"),
        ({"name": ""}, r"name=''"),
        ({"address": 6379}, r"address=6379"),
        ({"logging_dir": 5}, r"logging_dir=5"),
    ],
)
def test_wrong_argument_is_named_with_its_value_and_what_is_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        RayPipelineExecutor(**{"pipeline": [step]} | arguments)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_retries": -1}, r"RetryPolicy\.max_retries=-1"),
        ({"retry_on": "OSError"}, r"RetryPolicy\.retry_on='OSError'"),
        ({"retry_on": (3,)}, r"RetryPolicy\.retry_on=\(3,\)"),
        ({"backoff_s": -1}, r"RetryPolicy\.backoff_s=-1"),
        ({"oom_memory_factor": 0.5}, r"RetryPolicy\.oom_memory_factor=0\.5"),
    ],
)
def test_wrong_retry_policy_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RetryPolicy(**arguments)


def test_inherited_parameters_are_datatroves_in_order_and_default() -> None:
    from datatrove.executor.ray import RayPipelineExecutor as Original

    theirs = inspect.signature(Original).parameters.values()
    ours = list(inspect.signature(RayPipelineExecutor).parameters.values())[: len(theirs)]

    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


def test_further_parameters_are_keyword_only() -> None:
    further = list(inspect.signature(RayPipelineExecutor).parameters.values())[15:]

    assert {parameter.kind for parameter in further} == {inspect.Parameter.KEYWORD_ONLY}
    assert [parameter.name for parameter in further] == [
        "pipeline_kwargs",
        "name",
        "retry",
        "max_failed_ranks",
        "startup_timeout",
        "placement_strategy",
        "max_ranks_per_worker",
        "run_timeout",
        "runtime_env",
        "run_on_dependency_fail",
        "inputs",
        "refresh",
        "observers",
        "address",
    ]


def test_run_folder_is_made_up_when_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    executor = RayPipelineExecutor([step])

    assert re.fullmatch(rf"{tmp_path}/logs/\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d_[a-z]{{5}}", executor.logging_dir.path)
    assert executor.has_default_folder
    assert executor.name == Path(executor.logging_dir.path).name
    assert not (tmp_path / "logs").exists(), "nothing is made before the run"


def test_executors_that_wait_for_one_another_are_refused(tmp_path: Path) -> None:
    first = RayPipelineExecutor([step], logging_dir=str(tmp_path / "first"))
    second = RayPipelineExecutor([step], logging_dir=str(tmp_path / "second"), depends=first)
    first.depends = second

    with pytest.raises(ConfigError, match=r"depends=.*'first'.*'second'|depends=.*'second'.*'first'"):
        RayPipelineExecutor([step], depends=second)


def test_order_has_parents_first_and_each_once(tmp_path: Path) -> None:
    def make(name: str, *parents: RayPipelineExecutor) -> RayPipelineExecutor:
        return RayPipelineExecutor([step], logging_dir=str(tmp_path / name), depends=list(parents))

    top = make("top")
    left, right = make("left", top), make("right", top)

    names = [executor.name for executor in topological_order(make("bottom", left, right))]
    assert (names[0], names[-1]) == ("top", "bottom")
    assert sorted(names) == ["bottom", "left", "right", "top"]


def test_executor_survives_parameters_and_pickling(tmp_path: Path) -> None:
    parent = RayPipelineExecutor([step], logging_dir=str(tmp_path / "parent"))
    executor = RayPipelineExecutor(
        [step], 7, 3, parent, logging_dir=str(tmp_path / "run"), retry=RetryPolicy(max_retries=1), max_failed_ranks=0.5
    )

    for copy in (RayPipelineExecutor(**executor.parameters()), pickle.loads(pickle.dumps(executor))):
        assert copy.config == executor.config
        assert copy.logging_dir == executor.logging_dir
        assert [link.name for link in topological_order(copy)] == ["parent", "run"]


def test_plan_tells_groups_and_resources_without_running(tmp_path: Path) -> None:
    executor = RayPipelineExecutor(
        [step, [1, 2]],
        tasks=5,
        workers=2,
        tasks_per_job=2,
        cpus_per_task=2,
        mem_per_cpu_gb=1,
        logging_dir=str(tmp_path),
    )
    (tmp_path / "completions").mkdir()
    (tmp_path / "completions" / "00001").touch()

    plan = executor.plan()

    assert (plan.world_size, plan.done, plan.pending) == (5, 1, 4)
    assert plan.groups == ((0, 2), (3, 4))
    assert plan.resources_per_group == {"CPU": 2, "memory": 2 * 1024**3}
    assert plan.resources_total == {"CPU": 4, "memory": 4 * 1024**3}
    assert plan.steps == ("Function: step", "Data: list of 2")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["00001", "completions"]
    assert "4 of 5 ranks to run" in str(plan)


def test_incomplete_ranks_go_by_markers_and_skip_completed(tmp_path: Path) -> None:
    (tmp_path / "completions").mkdir()
    for name in ("00001", "00009", "notes.txt"):
        (tmp_path / "completions" / name).touch()
    executor = RayPipelineExecutor([step], tasks=3, logging_dir=str(tmp_path))

    assert executor.get_incomplete_ranks() == [0, 2]
    assert executor.get_incomplete_ranks(ranks=[1, 2]) == [2]
    assert executor.get_incomplete_ranks(skip_completed=False) == [0, 1, 2]
    assert executor.is_rank_completed(1)
    assert not executor.is_rank_completed(0)
    assert not RayPipelineExecutor([step], skip_completed=False, logging_dir=str(tmp_path)).is_rank_completed(1)


# --- parameters that are set later ----------------------------------------------------------------------------------


def other_step(data: Any, rank: int, world_size: int) -> None:
    """Do nothing else."""


@pytest.fixture
def executor(tmp_path: Path) -> RayPipelineExecutor:
    return RayPipelineExecutor([step], tasks=3, logging_dir=str(tmp_path / "run"))


def test_every_parameter_can_be_set_and_counts_for_the_next_run(executor: RayPipelineExecutor, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "pipeline": [other_step],
        "tasks": 5,
        "workers": 2,
        "depends": [RayPipelineExecutor([step], logging_dir=str(tmp_path / "parent"))],
        "skip_completed": False,
        "randomize_start_duration": 1,
        "cpus_per_task": 2,
        "mem_per_cpu_gb": 1.5,
        "gpus_per_task": 1,
        "nodes_per_task": 2,
        "ray_remote_kwargs": {"resources": {"disk": 1}},
        "log_first": True,
        "tasks_per_job": 2,
        "time": 60,
        "name": "other",
        "retry": RetryPolicy(max_retries=1),
        "max_failed_ranks": 1,
        "startup_timeout": 5,
        "placement_strategy": "PACK",
        "max_ranks_per_worker": 7,
        "run_timeout": 70,
        "run_on_dependency_fail": True,
        "observers": (object(),),
        "address": "local",
    }
    for name, value in changes.items():
        setattr(executor, name, value)

    assert {name: getattr(executor, name) for name in changes} == changes
    assert executor.world_size == 5
    assert {name: executor.parameters()[name] for name in changes} == changes
    assert [parent.name for parent in topological_order(executor)] == ["parent", "other"]


def test_skip_completed_that_is_set_later_runs_all_ranks(executor: RayPipelineExecutor, tmp_path: Path) -> None:
    assert run_in_process(executor).skipped == 0
    executor.skip_completed = False
    assert executor.completed_result is None, "it was the result with other parameters"
    assert executor.plan().pending == 3
    assert run_in_process(executor).skipped == 0


def test_run_folder_that_is_set_later_is_used(executor: RayPipelineExecutor, tmp_path: Path) -> None:
    executor.logging_dir = tmp_path / "other"  # type: ignore[assignment]
    assert executor.logging_dir.path == str(tmp_path / "other")
    executor.pipeline = "tests.core.test_constructor:make"
    executor.pipeline_kwargs = {"count": 2}
    assert run_in_process(executor).completed == 3
    assert (tmp_path / "other" / "result.json").exists()


def make(count: int = 1) -> list[Any]:
    return [step] * count


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tasks", 0),
        ("skip_completed", "no"),
        ("pipeline", []),
        ("pipeline", RayPipelineExecutor),
        ("pipeline_kwargs", {"a": 1}),
        ("depends", 5),
        ("logging_dir", 5),
        ("observers", 3),
        ("name", ""),
        ("ray_remote_kwargs", {"max_restarts": 1}),
    ],
)
def test_wrong_value_that_is_set_later_is_refused_and_changes_nothing(
    executor: RayPipelineExecutor, name: str, value: Any
) -> None:
    before = executor.parameters()
    with pytest.raises(ConfigError, match=rf"^{name}"):
        setattr(executor, name, value)
    assert executor.parameters() == before


@pytest.mark.parametrize("name", ["skip_complete", "task", "worker", "tasks_per_jobs", "logging_dirs", "run_time_out"])
def test_misspelled_parameter_is_refused_with_the_right_name(executor: RayPipelineExecutor, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"no parameter '{name}'; did you mean '\w+'\?"):
        setattr(executor, name, 1)


@pytest.mark.parametrize("name", ["world_size", "dependencies"])
def test_what_follows_from_parameters_cannot_be_set(executor: RayPipelineExecutor, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(executor, name, 1)


def test_attribute_of_the_user_can_be_set_and_copies_can_be_changed(executor: RayPipelineExecutor) -> None:
    executor.note = "mine"  # type: ignore[attr-defined]
    copied = pickle.loads(pickle.dumps(executor))
    copied.tasks = 9
    assert (copied.note, copied.world_size, executor.world_size) == ("mine", 9, 3)
