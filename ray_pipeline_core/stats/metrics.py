"""Running statistics of numbers and times, in datatrove's JSON format.

The format is lossy: a metric whose updates all added 1 is written as a bare number, and a bare number is read back as
the total of one task.

Sums and means use datatrove's order of operations, so that both give the same floats to the last digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from numbers import Integral, Real
from time import perf_counter
from typing import Any, TypeVar

DEFAULT_UNIT = "doc"
_TASK_UNIT = "task"

_Metric = TypeVar("_Metric", bound="Metric")


def plain_number(value: Any) -> Any:
    """Return a number of any type as an int or a float, for JSON; raise TypeError if it is not a number."""
    number_type = type(value)
    if number_type is int or number_type is float:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"{value!r} is not a number")


def _number(value: Any) -> Any:
    """Return a number of a stats file, where null is one that JSON does not have, such as NaN.

    Raises:
        OverflowError: it is an int beyond all floats, which nothing could be added to.
    """
    number = math.nan if value is None else plain_number(value)
    float(number)
    return number


@dataclass
class Metric:
    """Running statistics of one number.

    The variance is kept as the sum of squared distances from the mean, computed with Welford's algorithm for single
    values and with that of Chan, Golub and LeVeque (1979) for the sum of two metrics.

    Attributes:
        total: sum of the values; an exact int as long as all values are ints.
        n: number of values; a whole number, but a float if it was read back from a float total.
        mean: mean of the values.
        min: smallest value.
        max: largest value.
        squares: sum of squared distances from the mean.
        unit: unit that each value is counted for, such as "doc".
    """

    total: float = 0
    n: float = 0
    mean: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    squares: float = 0.0
    unit: str = DEFAULT_UNIT

    def update(self, value: float, unit: str | None = None) -> None:
        """Add one value.

        Raises:
            TypeError: it is not a number.
        """
        value = plain_number(value)
        if unit:
            self.unit = unit
        self.total += value
        self.n += 1
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        delta = value - self.mean
        self.mean += delta / self.n
        self.squares += delta * (value - self.mean)

    @property
    def variance(self) -> float:
        """Sample variance; 0 for fewer than two values."""
        return self.squares / (self.n - 1) if self.n > 1 else 0.0

    @property
    def std_dev(self) -> float:
        """Sample standard deviation; NaN if the variance is negative because floats overflowed."""
        return math.nan if self.variance < 0 else math.sqrt(self.variance)

    def __add__(self, other: Metric) -> Metric:
        total = Metric()
        total._set_sum(self, other)
        return total

    def _set_sum(self, one: Metric, other: Metric) -> None:
        n = one.n + other.n
        if n > 0:
            delta = one.mean - other.mean
            self.mean = (one.n * one.mean + other.n * other.mean) / n
            self.squares = one.squares + other.squares + (delta * delta * one.n * other.n) / n
        self.total = one.total + other.total
        self.n = n
        self.min = min(one.min, other.min)
        self.max = max(one.max, other.max)
        self.unit = other.unit if one.unit == DEFAULT_UNIT else one.unit

    def to_dict(self) -> Any:
        """Return the metric as in stats files: 0, a bare number, or a dict without the default values."""
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
        """Return the metric that `to_dict` wrote, as far as the format preserves it.

        Raises:
            TypeError, ValueError: it is not a metric; the message says why.
        """
        metric = cls()
        metric._load(plain)
        return metric

    def _load(self, plain: Any) -> None:
        if not isinstance(plain, dict):
            self.total = self.mean = self.min = self.max = _number(plain)
            self.n, self.unit = 1, _TASK_UNIT
            return
        if "total" not in plain:
            raise ValueError("the total is missing")
        self.total = total = _number(plain["total"])
        self.mean = mean = _number(plain.get("mean", 1))
        # `to_dict` leaves out n for a single value, and for values that were all 1.
        self.n = n = plain_number(plain.get("n", total if mean == 1 else 1))
        self.min = _number(plain.get("min", mean))
        self.max = _number(plain.get("max", mean))
        self.squares = float(_number(plain.get("variance", 0.0))) * (n - 1)
        if not 0 <= n < math.inf:
            raise ValueError(f"n={n} is no number of values")
        self.unit = plain.get("unit", DEFAULT_UNIT)
        if not isinstance(self.unit, str):
            raise TypeError(f"the unit {self.unit!r} is no text")


@dataclass
class Timing(Metric):
    """Running statistics of seconds; as a context manager, adds the time spent inside.

    Attributes:
        n_tasks: number of ranks that were merged.
        global_mean: mean of the ranks' totals, in seconds.
        global_min: smallest of these totals, in seconds.
        global_max: largest of these totals, in seconds.
        global_std_dev: standard deviation of these totals, in seconds.
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
        if self._depth == 0:  # the time of nested blocks counts once
            self.update(perf_counter() - self._entered_s)

    def update(self, value: float, unit: str | None = None) -> None:
        """Add one time, in seconds.

        Raises:
            TypeError, ValueError: it is not a finite number.
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
        delta = self.global_mean - other.global_mean
        squares = self.global_std_dev**2 * (self.n_tasks - 1) + other.global_std_dev**2 * (other.n_tasks - 1)
        squares += delta**2 * self.n_tasks * other.n_tasks / n_tasks
        total.global_std_dev = math.sqrt(squares / (n_tasks - 1))
        return total

    def to_dict(self) -> Any:
        """Return the metric as in stats files, with human-readable times, and the ranks' totals once merged."""
        plain = super().to_dict()
        if not isinstance(plain, dict):
            return plain
        plain["total_human"] = _humanize(self.total)
        for name in ("mean", "std_dev", "min", "max"):
            plain[f"{name}_human"] = _humanize(getattr(self, name), "milliseconds")
        if self.n_tasks != 1:
            for name in ("global_mean", "global_min", "global_max", "global_std_dev"):
                plain[name] = getattr(self, name)
                plain[f"{name}_human"] = _humanize(plain[name])
        return plain

    def _load(self, plain: Any) -> None:
        if plain is None:
            raise TypeError(f"{plain!r} is not a number")
        super()._load(plain)
        fields = plain if isinstance(plain, dict) else {}
        # The number of ranks is not in the file: merged times are read back as those of one rank.
        self.global_mean = plain_number(fields.get("global_mean", self.total))
        self.global_min = plain_number(fields.get("global_min", self.total))
        self.global_max = plain_number(fields.get("global_max", self.total))


def _humanize(seconds: float, minimum_unit: str = "seconds") -> str:
    """Return a string such as "2 hours and 3 seconds", or "3 seconds and 20.00 milliseconds" with that unit."""
    try:
        return _humanize_delta(timedelta(seconds=seconds), minimum_unit)
    except (OverflowError, ValueError):  # too large for a timedelta, or no number
        return f"{seconds} seconds"


# It takes a good part of the time of a short rank, most of whose times are the same to the microsecond.
@lru_cache(maxsize=1024)
def _humanize_delta(delta: timedelta, minimum_unit: str) -> str:
    from humanize import precisedelta

    return precisedelta(delta, minimum_unit)
