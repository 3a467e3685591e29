"""What a run is asked to do: defaults, refusals, and the resources that come out of it."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core import ConfigError, RankResources, RetryPolicy, RunConfig
from ray_pipeline_core.config import GIB
from ray_pipeline_core.errors import qualified_name

INFINITY = float("inf")


class OutOfQuota(Exception):
    """An error that a step may raise."""


# --- defaults -------------------------------------------------------------------------------------------------------


def test_retry_policy_has_the_documented_defaults() -> None:
    assert dataclasses.asdict(RetryPolicy()) == {
        "max_retries": 3,
        "max_preemptions": 100,
        "max_timeouts": 0,
        "max_errors": 0,
        "retry_on": (),
        "backoff_s": 1,
        "backoff_max_s": 60,
        "oom_memory_factor": 2.0,
        "before_retry": None,
    }


@pytest.mark.parametrize("value", [RetryPolicy(), RunConfig(), RunConfig().resources])
def test_values_are_frozen(value: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, 5)


def test_config_survives_pickling() -> None:
    config = RunConfig(tasks=3, ray_remote_kwargs={"resources": {"scanner": 1}}, retry=RetryPolicy(retry_on=[OSError]))  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(config)) == config


# --- refusals that the constructor of the executor shares -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpus_per_task", INFINITY),
        ("mem_per_cpu_gb", INFINITY),
        ("gpus_per_task", INFINITY),
        ("cpus_per_task", float("nan")),
        ("cpus_per_task", "2"),
        ("cpus_per_task", None),
        ("cpus_per_task", True),
        ("gpus_per_task", 1j),
        ("tasks", 2.0),
        ("tasks", "2"),
        ("tasks", None),
        ("workers", 1.0),
        ("workers", None),
        ("time", float("nan")),
        ("time", "60 s"),
        ("time", True),
        ("run_timeout", 0),
        ("stall_timeout", -1),
        ("stall_timeout", "10m"),
        ("stall_timeout", True),
        ("startup_timeout", None),
        ("startup_timeout", -5),
        ("max_failed_ranks", INFINITY),
        ("max_failed_ranks", float("nan")),
        ("max_failed_ranks", True),
        ("max_failed_ranks", "10%"),
        ("max_ranks_per_worker", 2.5),
        ("skip_completed", 0),
        ("skip_completed", None),
        ("placement_strategy", "spread"),
        ("placement_strategy", None),
        ("retry", None),
        ("ray_remote_kwargs", {1: 2}),
        ("ray_remote_kwargs", "num_cpus=2"),
    ],
)
def test_wrong_value_is_named_with_its_parameter(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(**{name: value})
    assert str(caught.value).startswith(f"{name}={value!r}: must be ")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_cpus", -1),
        ("num_cpus", "2"),
        ("num_cpus", INFINITY),
        ("num_gpus", None),
        ("memory", -1),
        ("memory", INFINITY),
        ("resources", ["scanner"]),
        ("resources", {"scanner": -1}),
        ("resources", {"scanner": "2"}),
        ("resources", {1: 2}),
    ],
)
def test_wrong_resource_in_ray_options_is_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(ray_remote_kwargs={option: value})
    message = str(caught.value)
    assert message.startswith(f"ray_remote_kwargs[{option!r}]")
    assert "must be" in message


@pytest.mark.parametrize(
    "option",
    [
        "max_restarts",
        "max_task_retries",
        "max_concurrency",
        "concurrency_groups",
        "lifetime",
        "name",
        "placement_group",
        "placement_group_bundle_index",
    ],
)
def test_ray_option_that_the_run_decides_is_refused_with_what_to_use(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"ray_remote_kwargs\['{option}'\]=1: not allowed here; use \w"):
        RunConfig(ray_remote_kwargs={option: 1})


@pytest.mark.parametrize(
    ("option", "parameter", "value"),
    [("num_cpus", "cpus_per_task", 2), ("num_gpus", "gpus_per_task", 1), ("memory", "mem_per_cpu_gb", 4)],
)
def test_resource_given_both_ways_is_refused_naming_both(option: str, parameter: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"ray_remote_kwargs\['{option}'\]=3: given both ways.*{parameter}={value}"):
        RunConfig(ray_remote_kwargs={option: 3}, **{parameter: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", 1.0),
        ("max_preemptions", -1),
        ("max_timeouts", None),
        ("max_errors", True),
        ("backoff_s", INFINITY),
        ("backoff_s", float("nan")),
        ("backoff_max_s", -1),
        ("before_retry", "clear_up"),
        ("oom_memory_factor", 0.99),
        ("oom_memory_factor", INFINITY),
        ("retry_on", "OSError"),
        ("retry_on", OSError),
        ("retry_on", (int,)),
        ("retry_on", (OSError(),)),
        ("retry_on", None),
    ],
)
def test_wrong_value_in_a_retry_policy_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        RetryPolicy(**{name: value})
    assert str(caught.value).startswith(f"RetryPolicy.{name}={value!r}: must be ")


# --- what is allowed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tasks", 10**6),
        ("workers", -1),
        ("cpus_per_task", 0),
        ("cpus_per_task", 0.5),
        ("mem_per_cpu_gb", 0),
        ("gpus_per_task", 0.25),
        ("time", 0.5),
        ("time", INFINITY),
        ("startup_timeout", INFINITY),
        ("run_timeout", INFINITY),
        ("stall_timeout", 0.5),
        ("stall_timeout", None),
        ("max_failed_ranks", 0.999),
        ("max_failed_ranks", 7.0),
        ("max_ranks_per_worker", None),
        ("ray_remote_kwargs", {}),
        ("ray_remote_kwargs", {"resources": None}),
        ("ray_remote_kwargs", {"runtime_env": {"pip": ["x"]}, "label_selector": {"disk": "fast"}}),
    ],
)
def test_right_value_is_kept_as_it_is(name: str, value: Any) -> None:
    assert getattr(RunConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("tasks", np.int64(7), 7),
        ("workers", np.int8(-1), -1),
        ("max_ranks_per_worker", np.uint32(3), 3),
        ("time", np.float32(0.5), 0.5),
        ("max_failed_ranks", np.int64(3), 3),
        ("mem_per_cpu_gb", np.float64(1.5), 1.5),
    ],
)
def test_number_of_numpy_is_taken_as_one_of_python(name: str, value: Any, kept: float) -> None:
    found = getattr(RunConfig(**{name: value}), name)
    assert found == kept
    assert json.dumps(found) == json.dumps(kept)
    assert type(RetryPolicy(max_retries=np.int64(2)).max_retries) is int


@pytest.mark.parametrize("value", [np.True_, np.float64(2), np.array([1, 2]), np.array(3.0)])
def test_what_is_no_integer_is_refused_as_a_count(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^tasks=.*: must be an integer"):
        RunConfig(tasks=value)


@pytest.mark.parametrize("name", ["tasks", "workers", "time", "run_timeout", "mem_per_cpu_gb", "max_failed_ranks"])
@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["large", "negative", "not printable"])
def test_number_that_nothing_can_count_to_is_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=.*: must be "):
        RunConfig(**{name: value})  # type: ignore[arg-type]


def test_retry_on_takes_types_and_names_in_any_sequence() -> None:
    policy = RetryPolicy(retry_on=[OSError, OutOfQuota, "requests.Timeout"])  # type: ignore[arg-type]
    assert policy.retry_on == (OSError, OutOfQuota, "requests.Timeout")
    assert policy.retry_on_names == {"OSError", f"{__name__}.OutOfQuota", "requests.Timeout"}
    assert hash(policy) == hash(RetryPolicy(retry_on=(OSError, OutOfQuota, "requests.Timeout")))


def test_qualified_name_leaves_out_the_module_of_builtins() -> None:
    assert qualified_name(ValueError) == "ValueError"
    assert qualified_name(OutOfQuota) == f"{__name__}.OutOfQuota"


# --- resources --------------------------------------------------------------------------------------------------------


def test_resources_default_to_one_cpu_with_two_gib() -> None:
    assert RunConfig().resources == RankResources(cpus=1, memory_bytes=2 * GIB, gpus=0)
    assert RunConfig().resources.bundle() == {"CPU": 1, "memory": 2 * GIB}


def test_strategy_of_single_workers_is_refused_for_gangs() -> None:
    options = {"scheduling_strategy": "SPREAD"}
    assert RunConfig(ray_remote_kwargs=options).resources.ray_options == options
    with pytest.raises(ConfigError, match=r"'scheduling_strategy'.*nodes_per_task above 1; use placement_strategy"):
        RunConfig(ray_remote_kwargs=options, nodes_per_task=2)


def test_memory_is_reserved_per_cpu() -> None:
    config = RunConfig(
        cpus_per_task=4, mem_per_cpu_gb=1.5, gpus_per_task=2, nodes_per_task=3, placement_strategy="PACK"
    )
    assert config.resources == RankResources(4, 6 * GIB, 2, 3, "PACK")


def test_ray_options_override_resources_at_their_default() -> None:
    options = {"num_cpus": 2, "num_gpus": 1, "memory": 10**9, "resources": {"scanner": 2}, "accelerator_type": "A100"}
    resources = RunConfig(ray_remote_kwargs=options).resources
    assert resources.bundle() == {"CPU": 2, "GPU": 1, "memory": 10**9, "scanner": 2}
    assert resources.ray_options == {"resources": {"scanner": 2}, "accelerator_type": "A100"}
    assert options["num_cpus"] == 2, "the caller's dict is left alone"


def test_bundle_leaves_zeros_out() -> None:
    config = RunConfig(cpus_per_task=0, mem_per_cpu_gb=0, ray_remote_kwargs={"resources": {"scanner": 0}})
    assert config.resources.bundle() == {}


def test_memory_factor_scales_memory_alone() -> None:
    resources = RunConfig(cpus_per_task=2).resources
    assert resources.with_memory_factor(1) is resources
    assert resources.with_memory_factor(1.5) == dataclasses.replace(resources, memory_bytes=6 * GIB)


# --- max_failed_ranks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "lost", "allowed"),
    [(10, 0, 0), (10, 3, 3), (10, 1.0, 1), (10, 0.25, 2), (3, 0.34, 1), (3, 0.33, 0), (100, 0.29, 29), (1, 0.99, 0)],
)
def test_allowed_failures_are_a_count_or_the_floor_of_a_fraction(tasks: int, lost: float, allowed: int) -> None:
    assert RunConfig(tasks=tasks, max_failed_ranks=lost).allowed_failures == allowed


@given(st.integers(1, 100_000), st.data())
def test_fraction_of_ranks_allows_exactly_that_many(tasks: int, data: st.DataObject) -> None:
    wanted = data.draw(st.integers(0, tasks - 1))
    assert RunConfig(tasks=tasks, max_failed_ranks=wanted / tasks).allowed_failures == wanted


@given(st.integers(1, 10_000), st.decimals(0, "0.999", places=3))
def test_decimal_fraction_means_what_it_says(tasks: int, fraction: Any) -> None:
    allowed = RunConfig(tasks=tasks, max_failed_ranks=float(fraction)).allowed_failures
    assert allowed == math.floor(Fraction(fraction) * tasks)
