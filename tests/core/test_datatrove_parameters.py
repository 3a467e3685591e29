"""Parameters of datatrove's other executors, and time limits as Slurm writes them."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import ConfigError, RayPipelineExecutor
from ray_pipeline_core.datatrove_parameters import _INSTEAD
from tests.support.steps import do_nothing


def make(folder: Path, **parameters: Any) -> RayPipelineExecutor:
    return RayPipelineExecutor([do_nothing], logging_dir=str(folder), **parameters)


def test_all_foreign_parameters_are_named_at_once_with_what_to_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        make(tmp_path, partition="hopper", qos="high", job_name="dedup", local_tasks=4)
    for text in (
        "partition: use the configuration",
        "qos: use",
        "job_name: use name",
        "local_tasks: use a Ray cluster",
    ):
        assert text in str(error.value)
    assert not any(tmp_path.iterdir())


def test_parameter_that_no_executor_has_is_still_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'pipelines'"):
        make(tmp_path, pipelines=[])


def test_every_parameter_of_datatroves_executors_is_known_or_explained() -> None:
    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor

    ours = set(inspect.signature(RayPipelineExecutor).parameters)
    for executor in (LocalPipelineExecutor, SlurmPipelineExecutor):
        theirs = set(inspect.signature(executor.__init__).parameters) - {"self"}
        assert theirs - ours <= set(_INSTEAD), executor
    assert not set(_INSTEAD) & ours, "a parameter of our own needs no explanation"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("24:00:00", 24 * 3600),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 1800),
        ("1-12:30:05", 36 * 3600 + 1805),
    ],
)
def test_time_limit_in_slurms_notation_is_taken(text: str, seconds: int, tmp_path: Path) -> None:
    assert make(tmp_path, time=text).time == seconds


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "-5", "00:00:00", "1-2:3:4:5", "١٢"])
def test_other_strings_are_no_time_limit(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"time=.*, in seconds, or a string such as '24:00:00' or '1-12:00:00'"):
        make(tmp_path, time=text)


@pytest.mark.parametrize(
    ("parameter", "value", "unit"),
    [
        ("run_timeout", "1h", "in seconds"),
        ("startup_timeout", None, "in seconds"),
        ("randomize_start_duration", "5m", "in seconds"),
        ("mem_per_cpu_gb", "4G", "in GiB"),
        ("retry", 3, r"RetryPolicy\(max_retries=3\)"),
    ],
)
def test_refusal_says_in_which_unit_a_value_must_be(parameter: str, value: Any, unit: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{parameter}=.*{unit}"):
        make(tmp_path, **{parameter: value})


def test_none_is_the_default_of_each_of_datatroves_parameters(tmp_path: Path) -> None:
    from datatrove.executor.ray import RayPipelineExecutor as Original

    names = set(inspect.signature(Original).parameters) - {"pipeline", "tasks", "logging_dir"}
    executor = make(tmp_path, **dict.fromkeys(names))
    assert executor.config == make(tmp_path).config
    executor.workers = None  # type: ignore[assignment]
    assert executor.workers == -1


@pytest.mark.parametrize("name", ["tasks", "retry", "startup_timeout", "placement_strategy", "max_failed_ranks"])
def test_none_is_refused_where_it_has_no_meaning(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name}=None"):
        make(tmp_path, **{name: None})


def test_random_sleep_may_be_a_fraction_of_a_second(tmp_path: Path) -> None:
    assert make(tmp_path, randomize_start_duration=0.5).randomize_start_duration == 0.5


# --- subclasses and chains --------------------------------------------------------------------------------------------


def test_subclass_is_warned_of_what_it_overrides_in_vain() -> None:
    with pytest.warns(UserWarning, match="never called") as caught:

        class Custom(RayPipelineExecutor):
            def _run_for_rank(self, rank: int, local_rank: int = 0) -> None:
                raise AssertionError("never called")

            world_size = 7

    messages = sorted(str(warning.message) for warning in caught)
    assert len(messages) == 2
    assert "Custom._run_for_rank is never called while ranks run; use steps at" in messages[0]
    assert "Custom.world_size is never called while ranks run; use the parameter tasks" in messages[1]
    assert {warning.filename for warning in caught} == {__file__}


def test_subclass_with_methods_of_its_own_is_not_warned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Custom(RayPipelineExecutor):
            def describe(self) -> str:
                return "mine"

        assert issubclass(Custom, RayPipelineExecutor)


def test_chain_with_an_executor_of_datatroves_is_refused(tmp_path: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor

    theirs: Any = LocalPipelineExecutor([do_nothing], logging_dir=str(tmp_path / "theirs"))
    with pytest.raises(ConfigError, match="is an executor of datatrove's, whose run can't be waited for"):
        make(tmp_path / "ours", depends=theirs)
