"""How a task waits for its driver on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from airflow_provider.airflow_versions import conf
from ray_pipeline_core import ConfigError

STOP, LEAVE = "stop", "leave"


@dataclass(frozen=True)
class JobSettings:
    """The parameters of the operator that count for a driver on a cluster; all of them are checked.

    Attributes:
        ray_conn_id: the Airflow connection of the cluster.
        deferrable: whether the task is deferred while it waits.
        poll_interval: seconds between two looks at the job.
        on_kill: "stop" or "leave": what becomes of the job of a task that is killed.
        max_driver_restarts: how often a driver that was lost is started again within a try.
        grace_s: how long the cluster may be away, in seconds.
        driver_cpus: CPUs that the driver reserves.
        driver_memory_gb: memory that the driver reserves, in GiB.
    """

    ray_conn_id: str
    deferrable: bool = False
    poll_interval: float = 10
    on_kill: str = STOP
    max_driver_restarts: int = 2
    grace_s: float = 120
    driver_cpus: float = 0
    driver_memory_gb: float = 1

    def __post_init__(self) -> None:
        _require(isinstance(self.deferrable, bool), "deferrable", self.deferrable, "True or False")
        _require(self.on_kill in (STOP, LEAVE), "on_kill", self.on_kill, "'stop' or 'leave'")
        _require(
            _is_number(self.poll_interval) and self.poll_interval > 0, "poll_interval", self.poll_interval, _SECONDS
        )
        restarts = self.max_driver_restarts
        is_count = type(restarts) is int and restarts >= 0
        _require(is_count, "max_driver_restarts", restarts, "an integer of at least 0")
        for name in ("grace_s", "driver_cpus", "driver_memory_gb"):
            value = getattr(self, name)
            _require(_is_number(value) and value >= 0, name, value, "a number of at least 0")


_SECONDS = "a number of seconds above 0"
JOB_PARAMETERS = tuple(field.name for field in fields(JobSettings))
"""The names of the operator's parameters that are settings of its job."""
WHEN_KILLED = "when_killed"
"""The attribute for the parameter `on_kill`, whose name is that of a method of every operator."""
JOB_TEMPLATE_FIELDS = tuple(WHEN_KILLED if field.name == "on_kill" else field.name for field in fields(JobSettings))
"""The operator's attributes for the settings, all of which may be templates."""
_BOOLEANS: Mapping[str, bool] = {"true": True, "false": False}


def default_deferrable() -> bool:
    """Return what Airflow is configured to do with operators that can be deferred."""
    return conf.getboolean("operators", "default_deferrable", fallback=False)


def check_settings(settings: Mapping[str, Any], is_template: Callable[[Any], bool]) -> None:
    """Check the settings that are no templates.

    Args:
        settings: the operator's parameters by name.
        is_template: returns whether a value is replaced when the task runs.

    Raises:
        ConfigError: one of them is wrong, whatever the templates render to.
    """
    known = {name: value for name, value in settings.items() if not is_template(value)}
    JobSettings(**{**known, "ray_conn_id": known.get("ray_conn_id") or ""})


def rendered_settings(attributes: Mapping[str, Any]) -> JobSettings:
    """Return the settings of a task instance.

    Args:
        attributes: the values of `JOB_TEMPLATE_FIELDS`, whose templates are rendered.

    Raises:
        ConfigError: one of them is wrong.
    """
    names = {WHEN_KILLED: "on_kill"}
    return JobSettings(**{names.get(name, name): _converted(name, value) for name, value in attributes.items()})


def _converted(name: str, value: Any) -> Any:
    """Return what a rendered string stands for; one that stands for nothing is left, and refused afterwards."""
    if not isinstance(value, str) or name in ("ray_conn_id", WHEN_KILLED):
        return value
    if name == "deferrable":
        return _BOOLEANS.get(value.strip().lower(), value)
    try:
        return int(value) if name == "max_driver_restarts" else float(value)
    except ValueError:
        return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{name}={value!r}: must be {allowed}")
