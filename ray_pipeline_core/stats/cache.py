"""The merged stats of a run's ranks, cached in `stats.cache.json` for the next run.

Ranks are merged in chunks of a thousand. `stats.cache.json` has the exact sums of each chunk and the sizes of the stats
files that are in them, and a digest of both: a cache that was altered is not used. The next run reuses the chunks whose
ranks are all completed and, on a local filesystem, whose stats files still have the same sizes; it reads the stats
files of all other ranks. The cache may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_pipeline_core.errors import StatsMergeError
from ray_pipeline_core.stats.pipeline_stats import PipelineStats, StatsAccumulator

CHUNK_RANKS = 1000
"""Number of ranks in a chunk, which is reused as a whole or not at all."""
_VERSION = 2


@dataclass
class _Chunk:
    merged: StatsAccumulator = field(default_factory=StatsAccumulator)
    sizes: dict[int, int] = field(default_factory=dict)

    def has_sizes(self, sizes: Mapping[int, int]) -> bool:
        return all(sizes.get(rank) == size for rank, size in self.sizes.items())


class StatsCache:
    """The merged stats of ranks, in chunks that can be stored and reused; each rank's own stats are not kept.

    Attributes:
        problems: stats that are missing from the newest `result`, and why.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._chunks: defaultdict[int, _Chunk] = defaultdict(_Chunk)
        self._step_names: list[str] | None = None

    def __len__(self) -> int:
        return sum(len(chunk.sizes) for chunk in self._chunks.values())

    def add(self, rank: int, steps: Sequence[dict[str, Any]], size_bytes: int) -> None:
        """Merge one rank's stats.

        Args:
            rank: the rank.
            steps: the content of its stats file; neither changed nor kept.
            size_bytes: the size of its stats file.

        Raises:
            StatsMergeError: its steps differ from those of earlier ranks, or it is damaged; nothing was merged.
        """
        chunk = self._chunks[rank // CHUNK_RANKS]
        chunk.merged.add(steps, self._step_names)
        chunk.sizes[rank] = size_bytes
        self._step_names = chunk.merged.names

    def result(self) -> PipelineStats:
        """Return the merged stats; the metrics of a single rank are as in its file."""
        total = StatsAccumulator()
        self.problems = []
        for number in sorted(self._chunks):
            try:
                total.merge(self._chunks[number].merged)
            except StatsMergeError as error:
                first = number * CHUNK_RANKS
                ranks = f"ranks {first} to {first + CHUNK_RANKS - 1}"
                self.problems.append(f"stats of {ranks} are not in stats.json: {error}")
        return total.result()

    def to_dict(self) -> dict[str, Any]:
        """Return all chunks as plain JSON."""
        chunks = [
            {"sizes": {str(rank): size for rank, size in chunk.sizes.items()}, "merged": chunk.merged.to_dict()}
            for chunk in self._chunks.values()
            if chunk.sizes
        ]
        return {"version": _VERSION, "sha256": digest_of(chunks), "chunks": chunks}

    def load(self, cache: Mapping[str, Any], completed: Collection[int], sizes: Mapping[int, int] | None) -> set[int]:
        """Load those chunks of a cache whose ranks are all completed and whose stats files are unchanged.

        Args:
            cache: the result of `to_dict`; ignored if it has another version.
            completed: the ranks that have a marker.
            sizes: the current sizes of the stats files in bytes, by rank; None = don't compare sizes.

        Returns:
            The ranks whose stats files need not be read.

        Raises:
            ValueError: the cache is damaged or was altered; nothing was loaded.
        """
        # Everything is parsed first, so that nothing is loaded from a damaged cache.
        for chunk in _parse_chunks(cache):
            if all(rank in completed for rank in chunk.sizes) and (sizes is None or chunk.has_sizes(sizes)):
                self._chunks[min(chunk.sizes) // CHUNK_RANKS] = chunk
                self._step_names = chunk.merged.names
        return {rank for chunk in self._chunks.values() for rank in chunk.sizes}


def _parse_chunks(cache: Any) -> list[_Chunk]:
    try:
        if cache["version"] != _VERSION:
            return []
        if cache["sha256"] != digest_of(cache["chunks"]):
            raise ValueError("its digest does not fit its content")
        return [_parse_chunk(plain) for plain in cache["chunks"]]
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"it has another form: {error}") from error


def _parse_chunk(plain: Mapping[str, Any]) -> _Chunk:
    sizes = {int(rank): size for rank, size in plain["sizes"].items()}
    merged = StatsAccumulator.from_dict(plain["merged"])
    if len({rank // CHUNK_RANKS for rank in sizes}) != 1 or merged.rank_count != len(sizes):
        raise ValueError("its sums are not those of its ranks")
    return _Chunk(merged, sizes)


def digest_of(chunks: Any) -> str:
    """Return the digest of a cache's chunks, which are plain JSON."""
    return hashlib.sha256(json.dumps(chunks, separators=(",", ":")).encode()).hexdigest()


def ranks_in_cache(cache: Mapping[str, Any]) -> Iterable[int]:
    """Return the ranks in a cache that `StatsCache.load` has accepted."""
    return (int(rank) for chunk in cache["chunks"] for rank in chunk["sizes"])
