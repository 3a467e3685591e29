"""The period that a run refreshes: the whole year of the data, a month or a day."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass

DATA_YEAR = 2013

_FORM = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)


@dataclass(frozen=True)
class Period:
    """The year of the data, or a month or a day of it.

    The data cover a single year, but a schedule has dates of any year. Such a date means the same month and day of
    the year of the data, and 29 February means the 28th.

    Attributes:
        month: 1 to 12, or None for the whole year.
        day: 1 to 31, or None for the whole month.
    """

    month: int | None = None
    day: int | None = None

    @classmethod
    def parse(cls, text: str) -> Period:
        """Parse a string like "2013", "2013-01" or "2013-01-15", of any year.

        Raises:
            ValueError: the string has another form, or is not in the calendar.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(
                f"period={text!r}: must be a year, month or day, such as '2013', '2013-01' or '2013-01-15'"
            )
        month, day = (int(part) if part else None for part in match.group(2, 3))
        _check_calendar(text, int(match[1]), month, day)
        if (month, day) == (2, 29):
            day = 28
        return cls(month, day)

    def __str__(self) -> str:
        month = "" if self.month is None else f"-{self.month:02d}"
        return f"{DATA_YEAR}{month}" + ("" if self.day is None else f"-{self.day:02d}")


def _check_calendar(text: str, year: int, month: int | None, day: int | None) -> None:
    if month is None:
        return
    if not 1 <= month <= 12:
        raise ValueError(f"period={text!r}: month {month:02d} is not in the calendar; use 01 to 12")
    days = calendar.monthrange(year, month)[1] if year else 0
    if day is not None and not 1 <= day <= days:
        raise ValueError(f"period={text!r}: day {day:02d} is not in that month, which has {days} days")
