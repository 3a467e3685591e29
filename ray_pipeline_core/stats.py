"""Statistics of steps: counting, the format of the stats files, and merging the ranks of a run.

The JSON is datatrove's, so that its tools read ours and the other way round. It keeps less than was counted: a metric
whose updates all added 1 is a bare number, and a bare number reads back as one task's total. Merging therefore goes
by what the files say, whichever way the stats came, so that merging the files again gives the same.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter
from typing import Any

from ray_pipeline_core.errors import StatsMergeError

DEFAULT_UNIT = "doc"
_TASK_UNIT = "task"


@dataclass
class Metric:
    """Running statistics of one number.

    The variance is kept as the sum of squared distances from the mean, by Welford's method when single values come
    in and by that of Chan, Golub and LeVeque (1979) when two metrics are merged.

    Attributes:
        total: sum of all values; stays an integer as long as they are.
        n: number of values.
        mean: their mean.
        min: the smallest.
        max: the largest.
        squares: sum of squared distances from the mean.
        unit: what one value belongs to.
    """

    total: float = 0
    n: int = 0
    mean: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    squares: float = 0.0
    unit: str = DEFAULT_UNIT

    def update(self, value: float, unit: str | None = None) -> None:
        """Adds one value."""
        if unit:
            self.unit = unit
        self.total += value
        self.n += 1
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        distance = value - self.mean
        self.mean += distance / self.n
        self.squares += distance * (value - self.mean)

    @property
    def variance(self) -> float:
        """Sample variance; 0 for fewer than two values."""
        return self.squares / (self.n - 1) if self.n > 1 else 0.0

    @property
    def std_dev(self) -> float:
        """Sample standard deviation."""
        return math.sqrt(self.variance)

    def merge(self, other: Metric) -> None:
        """Adds all values that `other` has seen."""
        n = self.n + other.n
        if n:
            distance = self.mean - other.mean
            self.squares += other.squares + distance * distance * self.n * other.n / n
            self.mean = (self.n * self.mean + other.n * other.mean) / n
        self.total += other.total
        self.n = n
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)
        if self.unit == DEFAULT_UNIT:
            self.unit = other.unit

    def to_dict(self) -> Any:
        """The metric as the stats files have it: 0, a bare number, or what says something."""
        if self.total == 0:
            return 0
        plain: dict[str, Any] = {"total": self.total}
        if self.n > 1 and self.n != self.total:
            plain["n"] = self.n
        varies = self.mean != self.max or self.mean != self.min
        if self.mean != 1 or varies:
            plain["mean"] = self.mean
        if varies:
            plain |= {"variance": self.variance, "std_dev": self.std_dev, "min": self.min, "max": self.max}
        if self.unit != DEFAULT_UNIT:
            plain["unit"] = self.unit
        return self.total if len(plain) == 1 else plain

    @classmethod
    def from_dict(cls, plain: Any) -> Metric:
        """Reads what `to_dict` wrote, as far as that tells.

        Raises:
            TypeError, ValueError, KeyError: it is no metric.
        """
        metric = cls()
        if isinstance(plain, dict):
            metric._read(plain)
        else:
            metric.total = metric.mean = metric.min = metric.max = _number(plain)
            metric.n, metric.unit = 1, _TASK_UNIT
        return metric

    def _read(self, plain: dict[str, Any]) -> None:
        self.total = _number(plain["total"])
        self.mean = _number(plain.get("mean", 1))
        # No n was written for one value, nor for values that were all 1.
        self.n = int(_number(plain.get("n", self.total if self.mean == 1 else 1)))
        self.min = _number(plain.get("min", self.mean))
        self.max = _number(plain.get("max", self.mean))
        self.squares = _number(plain.get("variance", 0.0)) * (self.n - 1)
        self.unit = str(plain.get("unit", DEFAULT_UNIT))


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


@dataclass
class Timing(Metric):
    """Running statistics of seconds, also a context manager that adds the time spent inside.

    Attributes:
        n_tasks: number of ranks that were merged.
        global_mean: mean of the ranks' totals, in seconds; likewise the other three.
    """

    n_tasks: int = 1
    global_mean: float = 0.0
    global_min: float = math.inf
    global_max: float = -math.inf
    global_squares: float = 0.0
    _entered: list[float] = field(default_factory=list, repr=False, compare=False)

    def __enter__(self) -> Timing:
        self._entered.append(perf_counter())
        return self

    def __exit__(self, *exception: object) -> None:
        seconds = perf_counter() - self._entered.pop()
        if not self._entered:  # an inner block's time is in the outer one's
            self.update(seconds)

    def update(self, value: float, unit: str | None = None) -> None:
        """Adds some seconds."""
        super().update(value, unit)
        self._count_as_one_task()

    def _count_as_one_task(self) -> None:
        if self.n_tasks == 1:
            self.global_mean = self.global_min = self.global_max = self.total

    @property
    def global_std_dev(self) -> float:
        """Sample standard deviation of the ranks' totals, in seconds."""
        return math.sqrt(self.global_squares / (self.n_tasks - 1)) if self.n_tasks > 1 else 0.0

    def merge(self, other: Metric) -> None:
        """Adds the times of other ranks."""
        super().merge(other)
        assert isinstance(other, Timing), "times merge with times"
        n_tasks = self.n_tasks + other.n_tasks
        distance = self.global_mean - other.global_mean
        self.global_squares += other.global_squares + distance**2 * self.n_tasks * other.n_tasks / n_tasks
        self.global_mean = (self.n_tasks * self.global_mean + other.n_tasks * other.global_mean) / n_tasks
        self.global_min = min(self.global_min, other.global_min)
        self.global_max = max(self.global_max, other.global_max)
        self.n_tasks = n_tasks

    def to_dict(self) -> Any:
        """As a metric, with texts for people, and the ranks' totals once several are merged."""
        plain = super().to_dict()
        if not isinstance(plain, dict):
            return plain
        fine = {"mean": self.mean, "std_dev": self.std_dev, "min": self.min, "max": self.max}
        plain["total_human"] = _human(self.total)
        plain |= {f"{name}_human": _human(timedelta(seconds=value), "milliseconds") for name, value in fine.items()}
        if self.n_tasks != 1:
            for name in ("global_mean", "global_min", "global_max", "global_std_dev"):
                plain[name] = getattr(self, name)
                plain[f"{name}_human"] = _human(plain[name])
        return plain

    @classmethod
    def from_dict(cls, plain: Any) -> Timing:
        """Reads what `to_dict` wrote; merged times read back as those of one rank."""
        timing = cls()
        if isinstance(plain, dict):
            timing._read(plain)
        else:
            timing.total = timing.mean = timing.min = timing.max = _number(plain)
            timing.n, timing.unit = 1, _TASK_UNIT
        timing._count_as_one_task()
        if isinstance(plain, dict) and "global_mean" in plain:
            timing.global_mean = _number(plain["global_mean"])
            timing.global_min = _number(plain.get("global_min", timing.total))
            timing.global_max = _number(plain.get("global_max", timing.total))
        return timing


def _human(duration: Any, smallest: str = "seconds") -> str:
    from humanize import precisedelta

    return precisedelta(duration, minimum_unit=smallest)


class StepStats:
    """The stats of one step for one rank.

    Args:
        name: "<type>: <name>" of the step.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.time_stats = Timing()
        self.stats: defaultdict[str, Metric] = defaultdict(Metric)

    def __getitem__(self, metric: str) -> Metric:
        return self.stats[metric]

    def to_dict(self) -> dict[str, Any]:
        """As the stats files have it."""
        metrics = {name: metric.to_dict() for name, metric in self.stats.items()}
        return {"name": self.name, "time_stats": self.time_stats.to_dict(), "stats": metrics}

    def __repr__(self) -> str:
        return f"StepStats({self.to_dict()!r})"


class PipelineStats:
    """The stats of a pipeline's steps, in the form of a stats file.

    Args:
        steps: one dict per step with `name`, `time_stats` and `stats`.
    """

    def __init__(self, steps: Sequence[dict[str, Any]] = ()) -> None:
        self._steps = list(steps)

    @classmethod
    def from_steps(cls, steps: Iterable[Any]) -> PipelineStats:
        """Collects the stats of those steps that have some, ours or datatrove's."""
        return cls([step.stats.to_dict() for step in steps if hasattr(step, "stats")])

    @classmethod
    def from_list(cls, plain: Sequence[dict[str, Any]]) -> PipelineStats:
        """Takes what `to_list` gave, or a stats file holds."""
        return cls(plain)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain JSON, one dict per step."""
        return self._steps

    def to_json(self) -> str:
        """The text of a stats file."""
        return json.dumps(self._steps, indent=4)

    def summary(self) -> str:
        """A line per step, for people."""
        return "\n".join(f"  {step['name']}: {_summary_of_step(step)}" for step in self._steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineStats) and self._steps == other._steps

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PipelineStats({self._steps!r})"


def _summary_of_step(step: dict[str, Any]) -> str:
    totals = {name: _total(metric) for name, metric in step["stats"].items()}
    return ", ".join([f"{_total(step['time_stats']):.3f} s", *(f"{name} {total:g}" for name, total in totals.items())])


def _total(metric: Any) -> Any:
    return metric["total"] if isinstance(metric, dict) else metric


class StatsAccumulator:
    """Merges the stats of ranks one after another; takes as much memory for a million as for one."""

    def __init__(self) -> None:
        self._first: list[dict[str, Any]] | None = None
        self._count = 0
        self._steps: list[StepStats] = []

    def add(self, steps: Sequence[dict[str, Any]]) -> None:
        """Merges one rank's stats.

        Args:
            steps: the content of its stats file; it is not changed, and kept only if it is the first.

        Raises:
            StatsMergeError: its steps are not those of the ranks before, or it is damaged; nothing was merged.
        """
        read = [_read_step(step, index) for index, step in enumerate(steps)]
        if self._first is None:
            self._first, self._steps = list(steps), [_started(step) for step in read]
        else:
            self._check_names([step.name for step in read])
            for ours, theirs in zip(self._steps, read, strict=True):
                ours.time_stats.merge(theirs.time_stats)
                for name, metric in theirs.stats.items():
                    ours.stats[name].merge(metric)
        self._count += 1

    def _check_names(self, names: list[str]) -> None:
        before = [step.name for step in self._steps]
        if names != before:
            raise StatsMergeError(
                f"stats of other steps can't be merged: {names} with those of earlier ranks, {before}"
            )

    def result(self) -> PipelineStats:
        """The merged stats; those of a single rank are as they were."""
        if self._count == 1 and self._first is not None:
            return PipelineStats(self._first)
        return PipelineStats([step.to_dict() for step in self._steps])


def _read_step(step: Any, index: int) -> StepStats:
    try:
        stats = StepStats(str(step["name"]))
        stats.time_stats = Timing.from_dict(step["time_stats"])
        for name, metric in step["stats"].items():
            stats.stats[name] = Metric.from_dict(metric)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StatsMergeError(f"entry {index} is no step's stats: {type(error).__name__}: {error}") from error
    return stats


def _started(step: StepStats) -> StepStats:
    """A copy merged into empty metrics, as every later one is."""
    started = StepStats(step.name)
    started.time_stats = step.time_stats
    for name, metric in step.stats.items():
        started.stats[name].merge(metric)
    return started


def parse_stats(text: str | bytes, source: str) -> PipelineStats:
    """Reads a stats file.

    Args:
        text: its content.
        source: its path, for messages.

    Raises:
        StatsMergeError: it is damaged; the message names `source`.
    """
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise StatsMergeError(
            f"{source} is not JSON ({error}); remove it and the rank's marker to run it again"
        ) from None
    if not isinstance(plain, list):
        raise StatsMergeError(f"{source} is not a list of steps; remove it and the rank's marker to run it again")
    try:
        for index, step in enumerate(plain):
            _read_step(step, index)
    except StatsMergeError as error:
        raise StatsMergeError(f"{source}: {error}; remove it and the rank's marker to run it again") from error
    return PipelineStats(plain)
