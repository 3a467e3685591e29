"""Running statistics of one number or of a time, and the form they have in the stats files.

The JSON is datatrove's. It keeps less than was counted: a metric whose updates all added 1 is a bare number, and a
bare number reads back as one task's total.

Sums and means are taken in datatrove's order of operations, so that both give the same floats to the last digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from numbers import Integral, Real
from time import perf_counter
from typing import Any, TypeVar

DEFAULT_UNIT = "doc"
_TASK_UNIT = "task"

_Metric = TypeVar("_Metric", bound="Metric")


def plain_number(value: Any) -> Any:
    """The value as an int or a float, whichever kind of number it is: JSON knows no other."""
    kind = type(value)
    if kind is int or kind is float:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"{value!r} is not a number")


@dataclass
class Metric:
    """Running statistics of one number.

    The variance is kept as the sum of squared distances from the mean, by Welford's method when single values come
    in and by that of Chan, Golub and LeVeque (1979) when two metrics are added.

    Attributes:
        total: sum of all values; an exact integer as long as they are.
        n: number of values; a whole number, a float if it was read back from a float total.
        mean: their mean.
        min: the smallest.
        max: the largest.
        squares: sum of squared distances from the mean.
        unit: what one value belongs to.
    """

    total: float = 0
    n: float = 0
    mean: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    squares: float = 0.0
    unit: str = DEFAULT_UNIT

    def update(self, value: float, unit: str | None = None) -> None:
        """Adds one value.

        Raises:
            TypeError: it is no number.
        """
        value = plain_number(value)
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
        """Sample standard deviation; not a number where floats overflowed and left a negative variance."""
        return math.nan if self.variance < 0 else math.sqrt(self.variance)

    def __add__(self, other: Metric) -> Metric:
        total = Metric()
        total._set_sum(self, other)
        return total

    def _set_sum(self, one: Metric, other: Metric) -> None:
        n = one.n + other.n
        if n > 0:
            distance = one.mean - other.mean
            self.mean = (one.n * one.mean + other.n * other.mean) / n
            self.squares = one.squares + other.squares + (distance * distance * one.n * other.n) / n
        self.total = one.total + other.total
        self.n = n
        self.min = min(one.min, other.min)
        self.max = max(one.max, other.max)
        self.unit = other.unit if one.unit == DEFAULT_UNIT else one.unit

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
    def from_dict(cls: type[_Metric], plain: Any) -> _Metric:
        """Reads what `to_dict` wrote, as far as that tells.

        Raises:
            TypeError, ValueError: it is no metric; the message says why.
        """
        metric = cls()
        metric._read(plain)
        return metric

    def _read(self, plain: Any) -> None:
        if not isinstance(plain, dict):
            self.total = self.mean = self.min = self.max = plain_number(plain)
            self.n, self.unit = 1, _TASK_UNIT
            return
        if "total" not in plain:
            raise ValueError("the total is missing")
        self.total = total = plain_number(plain["total"])
        self.mean = mean = plain_number(plain.get("mean", 1))
        # No n was written for one value, nor for values that were all 1.
        self.n = n = plain_number(plain.get("n", total if mean == 1 else 1))
        self.min = plain_number(plain.get("min", mean))
        self.max = plain_number(plain.get("max", mean))
        self.squares = plain_number(plain.get("variance", 0.0)) * (n - 1)
        if not 0 <= n < math.inf:
            raise ValueError(f"n={n} is no number of values")
        self.unit = plain.get("unit", DEFAULT_UNIT)
        if not isinstance(self.unit, str):
            raise TypeError(f"the unit {self.unit!r} is no text")


@dataclass
class Timing(Metric):
    """Running statistics of seconds, also a context manager that adds the time spent inside.

    Attributes:
        n_tasks: number of ranks that were merged.
        global_mean: mean of the ranks' totals, in seconds; likewise the other three.
    """

    n_tasks: int = 1
    global_mean: float = 0.0
    global_min: float = 0.0
    global_max: float = 0.0
    global_std_dev: float = 0.0
    _depth: int = 0
    _entered_s: float = 0.0

    def __enter__(self) -> Timing:
        if self._depth == 0:
            self._entered_s = perf_counter()
        self._depth += 1
        return self

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if self._depth == 0:  # an inner block's time is in the outer one's
            self.update(perf_counter() - self._entered_s)

    def update(self, value: float, unit: str | None = None) -> None:
        """Adds some seconds.

        Raises:
            TypeError, ValueError: it is no finite number.
        """
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is no time in seconds")
        super().update(value, unit)
        if self.n_tasks == 1:
            self.global_mean = self.global_min = self.global_max = self.total

    def __add__(self, other: Metric) -> Timing:
        if not isinstance(other, Timing):
            return NotImplemented
        total = Timing()
        total._set_sum(self, other)
        n_tasks = total.n_tasks = self.n_tasks + other.n_tasks
        total.global_mean = (self.n_tasks * self.global_mean + other.n_tasks * other.global_mean) / n_tasks
        total.global_min = min(self.global_min, other.global_min)
        total.global_max = max(self.global_max, other.global_max)
        distance = self.global_mean - other.global_mean
        squares = self.global_std_dev**2 * (self.n_tasks - 1) + other.global_std_dev**2 * (other.n_tasks - 1)
        squares += distance**2 * self.n_tasks * other.n_tasks / n_tasks
        total.global_std_dev = math.sqrt(squares / (n_tasks - 1))
        return total

    def to_dict(self) -> Any:
        """As a metric, with texts for people, and the ranks' totals once several are merged."""
        plain = super().to_dict()
        if not isinstance(plain, dict):
            return plain
        plain["total_human"] = _human(self.total)
        for name in ("mean", "std_dev", "min", "max"):
            plain[f"{name}_human"] = _human_fine(getattr(self, name))
        if self.n_tasks != 1:
            for name in ("global_mean", "global_min", "global_max", "global_std_dev"):
                plain[name] = getattr(self, name)
                plain[f"{name}_human"] = _human(plain[name])
        return plain

    def _read(self, plain: Any) -> None:
        super()._read(plain)
        merged = plain if isinstance(plain, dict) else {}
        # The number of ranks is not in the file: merged times read back as those of one rank.
        self.global_mean = plain_number(merged.get("global_mean", self.total))
        self.global_min = plain_number(merged.get("global_min", self.total))
        self.global_max = plain_number(merged.get("global_max", self.total))


def _human(seconds: float) -> str:
    """Such as "2 hours and 3 seconds"."""
    from humanize import precisedelta

    try:
        return precisedelta(seconds)
    except OverflowError:  # more than Python's dates can hold
        return f"{seconds} seconds"


def _human_fine(seconds: float) -> str:
    """The same down to milliseconds."""
    from humanize import precisedelta

    try:
        return precisedelta(timedelta(seconds=seconds), minimum_unit="milliseconds")
    except (OverflowError, ValueError):
        return f"{seconds} seconds"
