"""Failed ranks, and groups of those that failed for the same reason."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ray_pipeline_core.failure_kinds import FailureKind

MAX_GROUPS = 100
"""The most groups with messages of their own."""

_ADDRESS_OR_NUMBER = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_ANY_NUMBER = re.compile(r"\d+|\b[0-9a-fA-F-]{8,}\b")
_OTHERS = "messages that differ from rank to rank; attempts/history.jsonl in the run folder has them"

Cause = tuple[FailureKind, str, str]


@dataclass(frozen=True)
class RankFailure:
    """A rank that did not complete.

    Attributes:
        rank: the rank.
        kind: the kind of failure that ended its last attempt.
        attempts: the number of its attempts in this run; 0 if it was never submitted, or if the result was read from a
            file that lists no more than the first failures.
        error_type: qualified name of the exception, or of Ray's error.
        message: one sentence, with the name of the step if a step raised the exception.
        node: the node's address, if known.
        log: full path or URL of the log of the last attempt, if there is one.
        input: the input that the rank was at work on, such as the path of a file, if it is known.
    """

    rank: int
    kind: FailureKind
    attempts: int = 0
    error_type: str = ""
    message: str = ""
    node: str | None = None
    log: str | None = None
    input: str | None = None

    def __str__(self) -> str:
        summary = f"rank {self.rank}: {self.kind} after {self.attempts} attempt(s): {self.error_type}: {self.message}"
        places = [f"{name}: {place}" for name, place in (("input", self.input), ("log", self.log)) if place]
        return f"{summary} ({', '.join(places)})" if places else summary


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Ranks that failed for the same reason.

    Attributes:
        kind: the kind of failure.
        error_type: qualified name of the exception, or of Ray's error.
        message: the message, in which `<rank>` or `<n>` replaces what differs from rank to rank.
        ranks: the ranks, in order.
    """

    kind: FailureKind
    error_type: str
    message: str
    ranks: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the group as plain JSON, with the ranks as ranges."""
        return {
            "kind": self.kind,
            "error_type": self.error_type,
            "message": self.message,
            "count": len(self.ranks),
            "ranks": format_ranks(self.ranks),
        }


def group_failures(failures: Iterable[RankFailure]) -> list[FailureGroup]:
    """Return the failures in groups, the largest first; every failure is in one of them.

    Messages that differ in the rank alone are of one group. If that leaves more than `MAX_GROUPS`, all numbers in them
    may differ, and what is left after the first groups has one message per type of error.
    """
    ranks_by_message: defaultdict[Cause, list[int]] = defaultdict(list)
    for failure in failures:
        ranks_by_message[failure.kind, failure.error_type, failure.message].append(failure.rank)
    ranks_by_cause = _generalized(ranks_by_message, _without_rank, MAX_GROUPS)
    if ranks_by_cause is None:
        ranks_by_cause = _generalized(ranks_by_message, _without_numbers) or ranks_by_message
    for (kind, error_type, message), _ in _largest_first(ranks_by_cause)[MAX_GROUPS:]:
        ranks_by_cause[kind, error_type, _OTHERS] += ranks_by_cause.pop((kind, error_type, message))
    return [FailureGroup(*cause, tuple(sorted(ranks))) for cause, ranks in _largest_first(ranks_by_cause)]


def _generalized(
    ranks_by_message: Mapping[Cause, list[int]], generalize: Callable[[str, list[int]], str], limit: float = math.inf
) -> defaultdict[Cause, list[int]] | None:
    """Return the ranks by generalized message, or None once there are more than `limit`.

    A message that stays the only one of its kind is kept as it is.
    """
    messages: dict[Cause, list[str]] = {}
    for (kind, error_type, message), ranks in ranks_by_message.items():
        messages.setdefault((kind, error_type, generalize(message, ranks)), []).append(message)
        if len(messages) > limit:
            return None
    found: defaultdict[Cause, list[int]] = defaultdict(list)
    for (kind, error_type, general), originals in messages.items():
        shown = originals[0] if len(originals) == 1 else general
        for message in originals:
            found[kind, error_type, shown] += ranks_by_message[kind, error_type, message]
    return found


def _largest_first(ranks_by_cause: dict[Cause, list[int]]) -> list[tuple[Cause, list[int]]]:
    return sorted(ranks_by_cause.items(), key=lambda item: (-len(item[1]), min(item[1])))


def _without_rank(message: str, ranks: list[int]) -> str:
    """Return a message without addresses and, if a single rank has it, without the number of this rank."""
    rank = str(ranks[0]) if len(ranks) == 1 else None

    def replaced(match: re.Match[str]) -> str:
        if match[0].startswith("0x"):
            return "0x<n>"
        return "<rank>" if (match[0].lstrip("0") or "0") == rank else match[0]

    return _ADDRESS_OR_NUMBER.sub(replaced, message)


def _without_numbers(message: str, ranks: list[int]) -> str:
    return _ANY_NUMBER.sub("<n>", message)


def format_ranks(ranks: Iterable[int], max_ranges: int | None = None) -> str:
    """Return ranks, which are in order, as ranges such as "0-7, 12"; after `max_ranges` of them, only "and more"."""
    ranges: list[str] = []
    for _, run in groupby(enumerate(ranks), lambda pair: pair[1] - pair[0]):
        if len(ranges) == max_ranges:
            return ", ".join([*ranges, "and more"])
        numbers = [rank for _, rank in run]
        ranges.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ", ".join(ranges)


def parse_ranks(ranges: str, world_size: int) -> list[int]:
    """Return the ranks below `world_size` that `format_ranks` wrote.

    Raises:
        ValueError: `ranges` has another form, or a range does not begin after the end of the one before.
    """
    ranks: list[int] = []
    end = -1
    for part in ranges.split(", ") if ranges else []:
        start, _, stop = part.partition("-") if "-" in part else (part, "", part)
        first, last = int(start), int(stop)
        if not end < first <= last:
            raise ValueError("not in order")
        ranks += range(first, min(last + 1, world_size))
        end = last
    return ranks
