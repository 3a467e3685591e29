"""The stats of steps and pipelines, and merging them over ranks.

Stats are always merged as they are in the stats files, so that merging the files again, also with datatrove's tools,
gives the same result.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

from ray_pipeline_core.errors import StatsMergeError
from ray_pipeline_core.redaction import redact
from ray_pipeline_core.stats.metrics import Metric, Timing, plain_number
from ray_pipeline_core.strict_json import indented_json

__all__ = ["Metric", "PipelineStats", "StatsAccumulator", "StepStats", "Timing", "parse_stats"]


class StepStats:
    """The stats of one step for one rank.

    Args:
        name: "<type>: <name>" of the step; secrets in it are hidden.
        time_stats: the time spent in it; None = no time yet.
        stats: its metrics by name, where a missing one is created on access; None = no metrics yet.
    """

    def __init__(
        self, name: str, time_stats: Timing | None = None, stats: defaultdict[str, Metric] | None = None
    ) -> None:
        self.name = redact(name)
        self.time_stats = Timing() if time_stats is None else time_stats
        self.stats: defaultdict[str, Metric] = defaultdict(Metric) if stats is None else stats

    def __getitem__(self, metric: str) -> Metric:
        return self.stats[metric]

    def __setitem__(self, name: str, metric: Metric) -> None:
        self.stats[name] = metric

    def to_dict(self) -> dict[str, Any]:
        """Return the stats as in stats files."""
        metrics = {name: metric.to_dict() for name, metric in self.stats.items()}
        return {"name": self.name, "time_stats": self.time_stats.to_dict(), "stats": metrics}

    def __repr__(self) -> str:
        return f"StepStats({self.to_dict()!r})"


class PipelineStats:
    """The stats of a pipeline's steps, in the form of a stats file. Immutable.

    Args:
        steps: one dict per step with `name`, `time_stats` and `stats`; not validated until they are merged.
    """

    def __init__(self, steps: Sequence[dict[str, Any]] = ()) -> None:
        self._json_steps = list(steps)
        self._step_stats: list[StepStats] | None = None

    @classmethod
    def from_steps(cls, steps: Iterable[Any]) -> PipelineStats:
        """Collect the stats of those steps that have any, ours or datatrove's.

        Raises:
            StatsMergeError: a step's stats can't be written as JSON.
        """
        candidates = (getattr(step, "stats", None) for step in steps)
        return cls([_to_plain_json(stats) for stats in candidates if hasattr(stats, "time_stats")])

    @classmethod
    def from_list(cls, plain: Sequence[dict[str, Any]]) -> PipelineStats:
        """Create the stats from the result of `to_list` or the content of a stats file.

        Raises:
            StatsMergeError: `plain` is neither.
        """
        _parse_steps(plain)
        return cls(plain)

    @property
    def stats(self) -> list[StepStats]:
        """The stats of each step, as datatrove's `PipelineStats.stats`.

        Raises:
            StatsMergeError: the stats are damaged.
        """
        return self._parsed()

    def to_list(self) -> list[dict[str, Any]]:
        """Return the stats as plain JSON, one dict per step."""
        return self._json_steps

    def to_json(self) -> str:
        """Return the content of a stats file."""
        return indented_json(self._json_steps)

    def merge(self, other: PipelineStats) -> PipelineStats:
        """Return the sum of both; stats without steps add nothing.

        Raises:
            StatsMergeError: their steps differ, or one of them is damaged.
        """
        if not (self._json_steps and other._json_steps):
            return self if self._json_steps else other
        return _from_step_stats(_add_steps(self._parsed(), other._parsed()))

    __add__ = merge

    def _parsed(self) -> list[StepStats]:
        return _parse_steps(self._json_steps) if self._step_stats is None else self._step_stats

    def summary(self) -> str:
        """Return a human-readable summary, one line per step."""
        return "\n".join(f"  {step['name']}: {_summary_of_step(step)}" for step in self._json_steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PipelineStats) and self._json_steps == other._json_steps

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PipelineStats({self._json_steps!r})"


def _from_step_stats(steps: list[StepStats]) -> PipelineStats:
    """Keep the exact `StepStats` too, so that further merging loses nothing."""
    stats = PipelineStats([step.to_dict() for step in steps])
    stats._step_stats = steps
    return stats


def _to_plain_json(stats: Any) -> Any:
    try:
        plain = stats.to_dict()
        if not _is_plain(plain):
            plain = json.loads(json.dumps(plain, default=plain_number))
        return plain | {"name": redact(plain["name"]), "stats": _without_secrets(plain["stats"])}
    except (TypeError, ValueError) as error:
        raise StatsMergeError(
            f"the stats of {stats.name!r} are not plain numbers; add only numbers to them: {error}"
        ) from error


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(name) is str and _is_plain(item) for name, item in value.items())
    return type(value) in (str, int, float)


def _without_secrets(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics whose names and units have no secrets; those that get the same name are added."""
    clean: dict[str, Any] = {}
    for name, metric in metrics.items():
        shown = redact(name)
        if isinstance(metric, dict) and isinstance(metric.get("unit"), str):
            metric |= {"unit": redact(metric["unit"])}
        clean[shown] = _add_plain(clean[shown], metric) if shown in clean else metric
    return clean


def _add_plain(one: Any, other: Any) -> Any:
    return json.loads(json.dumps((Metric.from_dict(one) + Metric.from_dict(other)).to_dict()))


def _summary_of_step(step: dict[str, Any]) -> str:
    metrics = (f"{redact(name)} {_format_number(_total(metric))}" for name, metric in step["stats"].items())
    return ", ".join([f"{_total(step['time_stats']):.3f} s", *metrics])


def _total(metric: Any) -> Any:
    total = metric["total"] if isinstance(metric, dict) else metric
    return math.nan if total is None else total


def _format_number(number: float) -> str:
    if isinstance(number, int):
        return f"{number:,}"
    return f"{number:.3g}" if abs(number) < 1 else f"{number:,.3f}".rstrip("0").rstrip(".")


class StatsAccumulator:
    """The sum of ranks' stats; its memory does not grow with the number of ranks."""

    def __init__(self) -> None:
        self._rank_count = 0
        self._first_rank: list[dict[str, Any]] = []
        self._steps: list[StepStats] = []

    @property
    def rank_count(self) -> int:
        """The number of ranks that were merged."""
        return self._rank_count

    @property
    def names(self) -> list[str] | None:
        """The names of the steps; None if nothing has been merged yet."""
        return [step.name for step in self._steps] if self._rank_count else None

    def add(self, steps: Sequence[dict[str, Any]], names: list[str] | None = None) -> None:
        """Merge one rank's stats.

        Args:
            steps: the content of its stats file; neither changed nor kept.
            names: the names that the steps of the first rank must have; None = any.

        Raises:
            StatsMergeError: its steps differ from those of earlier ranks, or it is damaged; nothing was merged.
        """
        parsed = _parse_steps(steps)
        step_names = [step.name for step in parsed]
        if self._rank_count == 0:
            _check_step_names(step_names if names is None else names, step_names)
            self._first_rank, self._steps = deepcopy(list(steps)), parsed
        else:
            self._steps = _add_steps(self._steps, parsed)
        self._rank_count += 1

    def merge(self, other: StatsAccumulator) -> None:
        """Add the sum of another accumulator.

        Raises:
            StatsMergeError: its steps differ.
        """
        if self._rank_count and other._rank_count:
            self._steps = _add_steps(self._steps, other._steps)
        elif other._rank_count:
            self._first_rank, self._steps = other._first_rank, other._steps
        self._rank_count += other._rank_count

    def result(self) -> PipelineStats:
        """Return the merged stats; the metrics of a single rank are as in its file."""
        stats = _from_step_stats(self._steps)
        if self._rank_count == 1:
            for step, plain in zip(stats.to_list(), self._first_rank, strict=True):
                step["stats"] = deepcopy(plain["stats"])
        return stats

    def to_dict(self) -> dict[str, Any]:
        """Return the exact sums as plain JSON, unlike the lossy format of stats files."""
        steps = [
            {
                "name": step.name,
                "time_stats": vars(step.time_stats),
                "stats": {name: vars(metric) for name, metric in step.stats.items()},
            }
            for step in self._steps
        ]
        return {"count": self._rank_count, "first": self._first_rank if self._rank_count == 1 else [], "steps": steps}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> StatsAccumulator:
        """Return the accumulator that `to_dict` was called on.

        Raises:
            TypeError, ValueError, LookupError, AttributeError: `plain` is something else.
        """
        merged = cls()
        merged._rank_count, merged._first_rank = int(plain["count"]), list(plain["first"])
        for step in plain["steps"]:
            metrics = {name: Metric(**_numbers(metric)) for name, metric in step["stats"].items()}
            time_stats = Timing(**_numbers(step["time_stats"]))
            merged._steps.append(StepStats(str(step["name"]), time_stats, defaultdict(Metric, metrics)))
        return merged


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if name == "unit" else plain_number(value) for name, value in fields.items()}


def _add_steps(ours: Sequence[StepStats], theirs: Sequence[StepStats]) -> list[StepStats]:
    _check_step_names([step.name for step in ours], [step.name for step in theirs])
    try:
        return [_add_step(*pair) for pair in zip(ours, theirs, strict=True)]
    except ArithmeticError as error:
        raise StatsMergeError(f"the stats have numbers that are too large to add: {error}") from error


def _add_step(ours: StepStats, theirs: StepStats) -> StepStats:
    # Each sum starts from an empty metric, which rounds the mean once more, because datatrove's sums do.
    empty = Metric()
    metrics = defaultdict(Metric, {name: empty + metric for name, metric in ours.stats.items()})
    for name, metric in theirs.stats.items():
        metrics[name] = metrics.get(name, empty) + metric
    return StepStats(ours.name, ours.time_stats + theirs.time_stats, metrics)


def _check_step_names(before: list[str], names: list[str]) -> None:
    if names == before:
        return
    pairs = enumerate(zip(before, names, strict=False))
    found = (f"step {index} is {new!r} and was {old!r}" for index, (old, new) in pairs if old != new)
    difference = next(found, f"{len(names)} steps and {len(before)} before")
    raise StatsMergeError(
        f"stats of different steps can't be merged: {difference} ({names} after {before}); every rank must run the "
        "same steps"
    )


def _parse_steps(plain: Any) -> list[StepStats]:
    if not isinstance(plain, list | tuple):
        raise StatsMergeError(f"stats are a list of steps, not a {type(plain).__name__}")
    return [_parse_step(step, index) for index, step in enumerate(plain)]


def _parse_step(plain: Any, index: int) -> StepStats:
    if not isinstance(plain, dict):
        raise StatsMergeError(f"step {index} of the stats is {plain!r} and should be a dict")
    for key, kind in (("name", str), ("stats", dict)):
        if not isinstance(plain.get(key), kind):
            raise StatsMergeError(f"step {index} of the stats has no {key!r} that is a {kind.__name__}")
    metrics: defaultdict[str, Metric] = defaultdict(Metric)
    entry = "time_stats"
    try:
        time_stats = Timing.from_dict(plain.get("time_stats"))
        for entry, metric in plain["stats"].items():
            metrics[entry] = Metric.from_dict(metric)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise StatsMergeError(f"step {index} of the stats, {plain['name']!r}, {entry!r}: {error}") from error
    return StepStats(plain["name"], time_stats, metrics)


def parse_stats(content: str | bytes, source: str) -> PipelineStats:
    """Parse a stats file.

    Args:
        content: content of the file.
        source: path of the file, for messages.

    Raises:
        StatsMergeError: the file is damaged; the message names `source`.
    """
    try:
        return PipelineStats.from_list(json.loads(content))
    except (ValueError, RecursionError) as error:
        problem = f"it is not JSON: {error}"
    except StatsMergeError as error:
        problem = str(error)
    raise StatsMergeError(f"{source} is damaged, so its rank has to run again: {problem}")
