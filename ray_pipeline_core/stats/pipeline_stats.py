"""The stats of steps and pipelines, and merging those of a run's ranks.

Merging goes by what the stats files say, whichever way the stats came, so that merging the files again, with
datatrove's tools too, gives the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

from ray_pipeline_core.errors import StatsMergeError
from ray_pipeline_core.stats.metrics import Metric, Timing, plain_number

__all__ = ["Metric", "PipelineStats", "StatsAccumulator", "StepStats", "Timing", "parse_stats"]


class StepStats:
    """The stats of one step for one rank.

    Args:
        name: "<type>: <name>" of the step.
        time_stats: the time spent in it; none yet by default.
        stats: its metrics by name; one that is looked up and missing is begun.
    """

    def __init__(
        self, name: str, time_stats: Timing | None = None, stats: defaultdict[str, Metric] | None = None
    ) -> None:
        self.name = name
        self.time_stats = Timing() if time_stats is None else time_stats
        self.stats: defaultdict[str, Metric] = defaultdict(Metric) if stats is None else stats

    def __getitem__(self, metric: str) -> Metric:
        return self.stats[metric]

    def __setitem__(self, name: str, metric: Metric) -> None:
        self.stats[name] = metric

    def to_dict(self) -> dict[str, Any]:
        """As the stats files have it."""
        metrics = {name: metric.to_dict() for name, metric in self.stats.items()}
        return {"name": self.name, "time_stats": self.time_stats.to_dict(), "stats": metrics}

    def __repr__(self) -> str:
        return f"StepStats({self.to_dict()!r})"


class PipelineStats:
    """The stats of a pipeline's steps, in the form of a stats file; nothing changes them.

    Args:
        steps: one dict per step with `name`, `time_stats` and `stats`; looked into when they are merged.
    """

    def __init__(self, steps: Sequence[dict[str, Any]] = ()) -> None:
        self._plain = list(steps)
        self._exact: list[StepStats] | None = None

    @classmethod
    def from_steps(cls, steps: Iterable[Any]) -> PipelineStats:
        """Collects the stats of those steps that have some, ours or datatrove's.

        Raises:
            StatsMergeError: a step counted something that JSON can't hold.
        """
        candidates = (getattr(step, "stats", None) for step in steps)
        return cls([_as_json(stats) for stats in candidates if hasattr(stats, "time_stats")])

    @classmethod
    def from_list(cls, plain: Sequence[dict[str, Any]]) -> PipelineStats:
        """Takes what `to_list` gave, or a stats file holds.

        Raises:
            StatsMergeError: it is something else.
        """
        _read_steps(plain)
        return cls(plain)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain JSON, one dict per step."""
        return self._plain

    def to_json(self) -> str:
        """The text of a stats file."""
        return json.dumps(self._plain, indent=4)

    def merge(self, other: PipelineStats) -> PipelineStats:
        """Both together; stats of no step at all add nothing.

        Raises:
            StatsMergeError: their steps differ, or one of them is damaged.
        """
        if not (self._plain and other._plain):
            return self if self._plain else other
        return _merged(_sum_of_steps(self._read(), other._read()))

    __add__ = merge

    def _read(self) -> list[StepStats]:
        return _read_steps(self._plain) if self._exact is None else self._exact

    def summary(self) -> str:
        """A line per step, for people."""
        return "\n".join(f"  {step['name']}: {_summary_of_step(step)}" for step in self._plain)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineStats) and self._plain == other._plain

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PipelineStats({self._plain!r})"


def _merged(steps: list[StepStats]) -> PipelineStats:
    """Keeps what the file leaves out, so that merging can go on without loss."""
    stats = PipelineStats([step.to_dict() for step in steps])
    stats._exact = steps
    return stats


def _as_json(stats: Any) -> Any:
    try:
        return json.loads(json.dumps(stats.to_dict(), default=plain_number))
    except (TypeError, ValueError) as error:
        raise StatsMergeError(f"the stats of {stats.name!r} are not plain numbers: {error}") from error


def _summary_of_step(step: dict[str, Any]) -> str:
    metrics = (f"{name} {_readable(_total(metric))}" for name, metric in step["stats"].items())
    return ", ".join([f"{_total(step['time_stats']):.3f} s", *metrics])


def _total(metric: Any) -> Any:
    return metric["total"] if isinstance(metric, dict) else metric


def _readable(number: float) -> str:
    if isinstance(number, int):
        return f"{number:,}"
    return f"{number:.3g}" if abs(number) < 1 else f"{number:,.3f}".rstrip("0").rstrip(".")


class StatsAccumulator:
    """Merges the stats of ranks one after another; takes as much memory for a million as for one."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[dict[str, Any]] = []
        self._steps: list[StepStats] = []

    @property
    def names(self) -> list[str] | None:
        """The names of the steps; None as long as nothing was merged."""
        return [step.name for step in self._steps] if self._count else None

    def add(self, steps: Sequence[dict[str, Any]], names: list[str] | None = None) -> None:
        """Merges one rank's stats.

        Args:
            steps: the content of its stats file; it is neither changed nor kept.
            names: the names that its steps must have, if that is known before anything was merged.

        Raises:
            StatsMergeError: its steps are not those of the ranks before, or it is damaged; nothing was merged.
        """
        read = _read_steps(steps)
        if self._count == 0:
            _check_same_names([step.name for step in read] if names is None else names, [step.name for step in read])
            self._first, self._steps = deepcopy(list(steps)), read
        else:
            self._steps = _sum_of_steps(self._steps, read)
        self._count += 1

    def merge(self, other: StatsAccumulator) -> None:
        """Adds all that another one has merged.

        Raises:
            StatsMergeError: its steps are others.
        """
        if self._count and other._count:
            self._steps = _sum_of_steps(self._steps, other._steps)
        elif other._count:
            self._first, self._steps = other._first, other._steps
        self._count += other._count

    def result(self) -> PipelineStats:
        """The merged stats; the metrics of a single rank are as its file has them."""
        stats = _merged(self._steps)
        if self._count == 1:
            for step, plain in zip(stats.to_list(), self._first, strict=True):
                step["stats"] = deepcopy(plain["stats"])
        return stats

    def to_dict(self) -> dict[str, Any]:
        """The exact sums as plain JSON; the stats files' own form keeps less."""
        steps = [
            {
                "name": step.name,
                "time_stats": vars(step.time_stats),
                "stats": {k: vars(v) for k, v in step.stats.items()},
            }
            for step in self._steps
        ]
        return {"count": self._count, "first": self._first if self._count == 1 else [], "steps": steps}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> StatsAccumulator:
        """Reads what `to_dict` returned.

        Raises:
            TypeError, ValueError, LookupError, AttributeError: it is something else.
        """
        merged = cls()
        merged._count, merged._first = int(plain["count"]), list(plain["first"])
        for step in plain["steps"]:
            metrics = {name: Metric(**_numbers(metric)) for name, metric in step["stats"].items()}
            time_stats = Timing(**_numbers(step["time_stats"]))
            merged._steps.append(StepStats(str(step["name"]), time_stats, defaultdict(Metric, metrics)))
        return merged


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if name == "unit" else plain_number(value) for name, value in fields.items()}


def _sum_of_steps(ours: Sequence[StepStats], theirs: Sequence[StepStats]) -> list[StepStats]:
    _check_same_names([step.name for step in ours], [step.name for step in theirs])
    try:
        return [_sum_of_step(*pair) for pair in zip(ours, theirs, strict=True)]
    except ArithmeticError as error:
        raise StatsMergeError(f"stats hold numbers that are too large to be added: {error}") from error


def _sum_of_step(ours: StepStats, theirs: StepStats) -> StepStats:
    # Each sum starts from nothing, which rounds the mean once more, since datatrove's sums do.
    nothing = Metric()
    metrics = defaultdict(Metric, {name: nothing + metric for name, metric in ours.stats.items()})
    for name, metric in theirs.stats.items():
        metrics[name] = metrics.get(name, nothing) + metric
    return StepStats(ours.name, ours.time_stats + theirs.time_stats, metrics)


def _check_same_names(before: list[str], names: list[str]) -> None:
    if names == before:
        return
    pairs = enumerate(zip(before, names, strict=False))
    found = (f"step {index} is {new!r} and was {old!r}" for index, (old, new) in pairs if old != new)
    difference = next(found, f"{len(names)} steps and {len(before)} before")
    raise StatsMergeError(f"stats of other steps can't be merged: {difference} ({names} after {before})")


def _read_steps(plain: Any) -> list[StepStats]:
    if not isinstance(plain, list | tuple):
        raise StatsMergeError(f"stats are a list of steps, not a {type(plain).__name__}")
    return [_read_step(step, index) for index, step in enumerate(plain)]


def _read_step(plain: Any, index: int) -> StepStats:
    if not isinstance(plain, dict):
        raise StatsMergeError(f"step {index} of the stats is {plain!r} and should be a dict")
    for key, kind in (("name", str), ("stats", dict)):
        if not isinstance(plain.get(key), kind):
            raise StatsMergeError(f"step {index} of the stats has no {key!r} that is a {kind.__name__}")
    metrics: defaultdict[str, Metric] = defaultdict(Metric)
    place = "time_stats"
    try:
        time_stats = Timing.from_dict(plain.get("time_stats"))
        for place, metric in plain["stats"].items():
            metrics[place] = Metric.from_dict(metric)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise StatsMergeError(f"step {index} of the stats, {plain['name']!r}, {place!r}: {error}") from error
    return StepStats(plain["name"], time_stats, metrics)


def parse_stats(text: str | bytes, source: str) -> PipelineStats:
    """Reads a stats file.

    Args:
        text: its content.
        source: its path, for messages.

    Raises:
        StatsMergeError: it is damaged; the message names `source`.
    """
    try:
        return PipelineStats.from_list(json.loads(text))
    except (ValueError, RecursionError) as error:
        problem = f"it is not JSON: {error}"
    except StatsMergeError as error:
        problem = str(error)
    raise StatsMergeError(f"{source} is damaged, so its rank has to run again: {problem}")
