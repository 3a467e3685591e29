"""The order in which ranks start: longest first, so that no long one is left when all others have ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from ray_pipeline_core.scheduling.rank_groups import TaskGroup, make_groups

_NOTHING_KNOWN: Mapping[int, float] = {}


class RankWeights:
    """How long ranks are expected to take compared with one another.

    A rank of which nothing is known counts as an average one. Those known to take longer start before it, as they will
    surely take long; those known to take less time are kept for the end of the run, where a long one would be waited
    for alone. A rank that has only failed takes at least as long as that, and is expected to be no shorter than others.

    Args:
        known: bytes, seconds or whatever else the time of a rank grows with, by rank.
        at_least: what ranks without a known weight have at least, in the same unit.
    """

    def __init__(
        self, known: Mapping[int, float] = _NOTHING_KNOWN, at_least: Mapping[int, float] = _NOTHING_KNOWN
    ) -> None:
        self._known = known
        self._at_least = at_least
        self._average = fmean(known.values()) if known else 0.0

    def of(self, rank: int) -> float:
        """Return the weight of a rank."""
        weight = self._known.get(rank)
        return max(self._average, self._at_least.get(rank, 0.0)) if weight is None else weight


def start_order(ranks: Iterable[int], weights: RankWeights) -> list[int]:
    """Return ranks in the order in which they should start: the heaviest first, those of equal weight by number."""
    return sorted(sorted(ranks), key=weights.of, reverse=True)


def longest_first(ranks: Iterable[int], tasks_per_job: int, weights: RankWeights) -> list[TaskGroup]:
    """Return groups of up to `tasks_per_job` ranks in the order in which they should start.

    Ranks of similar weight come together, since a group takes as long as its longest rank.
    """
    return make_groups(start_order(ranks, weights), tasks_per_job, weights.of)
