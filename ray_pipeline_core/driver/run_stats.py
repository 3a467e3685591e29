"""The merged stats of a run: those of its own ranks and of earlier runs, from the cache or the files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ray_pipeline_core.errors import StatsMergeError
from ray_pipeline_core.rank_failures import format_ranks
from ray_pipeline_core.redaction import redact
from ray_pipeline_core.scheduling.outcomes import RankOutcome
from ray_pipeline_core.stats.cache import StatsCache, ranks_in_cache
from ray_pipeline_core.stats.pipeline_stats import PipelineStats, parse_stats
from ray_pipeline_core.storage.run_folder import STATS_CACHE_FILE, RunFolder

MIN_CACHED_RANKS = 100
"""The fewest ranks whose merged stats are stored: the files of fewer are read as quickly."""


_MAX_CAUSES = 100
_MAX_NAMED_RANGES = 20


class RankWarnings:
    """Warnings, in which those of several ranks for the same cause are one."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._ranks: defaultdict[str, list[int]] = defaultdict(list)

    def append(self, message: str, rank: int) -> None:
        """Add what is to be said of a rank."""
        cause = message.replace(f"{rank:05d}", "<rank>").replace(f"rank {rank} ", "rank <rank> ")
        if cause not in self._first and len(self._first) >= _MAX_CAUSES:
            cause = ""
        self._first.setdefault(cause, message)
        self._ranks[cause].append(rank)

    def extend(self, messages: Iterable[str]) -> None:
        """Add what is to be said of the run."""
        self._first.update((message, message) for message in messages)

    def texts(self) -> list[str]:
        """Return one warning for each cause."""
        return [self._text(cause) for cause in self._first]

    def _text(self, cause: str) -> str:
        ranks = sorted(set(self._ranks.get(cause, ())))
        if len(ranks) <= 1:
            return self._first[cause]
        same = "the same holds for" if cause else "there are such warnings about"
        return f"{self._first[cause]} ({same} {len(ranks)} ranks: {format_ranks(ranks, _MAX_NAMED_RANGES)})"


class RunStats:
    """Merges the stats of a run's completed ranks.

    Args:
        folder: the run folder.
        world_size: number of ranks.
    """

    def __init__(self, folder: RunFolder, world_size: int) -> None:
        self._warnings = RankWarnings()
        self._folder = folder
        self._world_size = world_size
        self._merged = StatsCache()
        self._unread: list[int] = []
        self._cached_ranks = 0

    @property
    def warnings(self) -> list[str]:
        """Which ranks are missing in the merged stats, and why."""
        return self._warnings.texts()

    def load(self, completed: Collection[int]) -> list[int]:
        """Merge the stats of ranks that earlier runs completed.

        Returns:
            The ranks whose stats are damaged, so that their markers can't be trusted.
        """
        cached = self._load_cache(completed)
        return self._merge_files([rank for rank in completed if rank not in cached])

    def add(self, outcome: RankOutcome) -> None:
        """Merge the stats of a completed rank; if its outcome has none, its file is read at the end."""
        if outcome.stats is None:
            self._unread.append(outcome.rank)
        else:
            self._merge(outcome.rank, outcome.stats, outcome.stats_bytes)

    def result(self) -> PipelineStats:
        """Return the stats of every completed rank."""
        self._merge_files(self._unread)
        self._unread = []
        stats = self._merged.result()
        self._warnings.extend(self._merged.problems)
        return stats

    def store_cache(self) -> None:
        """Store what has been merged so far, so that later runs need not read it rank by rank."""
        if len(self._merged) >= MIN_CACHED_RANKS:
            self._folder.write_stats_cache(self._merged.to_dict())

    def cache_if_due(self) -> dict[str, Any] | None:
        """Return a cache for `RunFolder.write_stats_cache` once it has a half more ranks than the one before.

        So all caches of a run together are not much larger than the last one.
        """
        if len(self._merged) < max(MIN_CACHED_RANKS, 1.5 * self._cached_ranks):
            return None
        self._cached_ranks = len(self._merged)
        return self._merged.to_dict()

    def _load_cache(self, completed: Collection[int]) -> set[int]:
        """Load what an earlier run has merged, and return the ranks that are in it.

        A cache that is partly outdated or damaged is removed before anything runs, since it must not cover a rank that
        runs again.
        """
        try:
            cache = self._folder.read_stats_cache()
            if cache is None:
                return set()
            loaded = self._merged.load(cache, completed, self._file_sizes())
            if loaded and loaded == set(ranks_in_cache(cache)):
                return loaded
        except ValueError as error:
            loaded = set()
            self._warnings.extend(
                [f"{STATS_CACHE_FILE} is damaged or was altered, so the stats files are read instead: {error}"]
            )
        self._folder.remove_stats_cache()
        return loaded

    def _file_sizes(self) -> dict[int, int] | None:
        """Return the sizes of the stats files on a local disk, where a crash of the machine may truncate them.

        Object stores write objects completely or not at all, so listing the sizes there is not worth the time.
        """
        return self._folder.stats_sizes(self._world_size) if self._folder.folder.is_local() else None

    def _merge_files(self, ranks: Collection[int]) -> list[int]:
        """Merge the stats files of completed ranks, read many at once.

        Returns:
            The ranks whose file is damaged. A missing file is only a warning, since somebody may have cleaned up.
        """
        damaged: list[int] = []
        without_steps: list[int] = []
        for rank, content in self._folder.read_rank_stats(sorted(ranks)).items():
            if isinstance(content, Exception):
                path = self._folder.stats_path(rank)
                self._warnings.append(
                    f"{path} could not be read, so stats.json lacks this rank: {redact(str(content))}", rank
                )
                continue
            try:
                stats = parse_stats(content, self._folder.stats_path(rank)).to_list()
            except StatsMergeError as error:
                self._warnings.append(str(error), rank)
                damaged.append(rank)
                continue
            if stats:
                self._merge(rank, stats, len(content))
            else:
                without_steps.append(rank)
        return damaged + self._merge_without_steps(without_steps)

    def _merge_without_steps(self, ranks: Sequence[int]) -> list[int]:
        """Merge files without steps, and return their ranks if others have steps: then these files are damaged."""
        if ranks and self._merged.result().to_list():
            for rank in ranks:
                self._warnings.append(
                    f"{self._folder.stats_path(rank)} is damaged, so its rank has to run again: it has no steps", rank
                )
            return list(ranks)
        for rank in ranks:
            self._merge(rank, [], len("[]"))
        return []

    def _merge(self, rank: int, stats: list[dict[str, Any]], size_bytes: int) -> None:
        try:
            self._merged.add(rank, stats, size_bytes)
        except StatsMergeError as error:
            self._warnings.append(f"stats of rank {rank} are not in stats.json: {error}", rank)
