"""The merged stats of a run folder's ranks, which a later run need not read again.

Ranks are merged in chunks of a thousand. `stats.cache.json` keeps each chunk's exact sums, with the size of every stats
file that is in them. The next run takes over those chunks whose ranks are all complete and, on a local disk, whose
files are still there in the same sizes; it reads the files of the others. The cache may be deleted at any time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_pipeline_core.errors import StatsMergeError
from ray_pipeline_core.stats.pipeline_stats import PipelineStats, StatsAccumulator

CHUNK_RANKS = 1000
"""Ranks that are taken over together, or not at all."""
_VERSION = 1


@dataclass
class _Chunk:
    merged: StatsAccumulator = field(default_factory=StatsAccumulator)
    sizes: dict[int, int] = field(default_factory=dict)

    def has_sizes(self, sizes: Mapping[int, int]) -> bool:
        return all(sizes.get(rank) == size for rank, size in self.sizes.items())


class StatsCache:
    """Merges the stats of ranks one after another, in memory that does not grow with what they hold.

    Attributes:
        problems: what the newest result lacks, and why.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._chunks: defaultdict[int, _Chunk] = defaultdict(_Chunk)
        self._names: list[str] | None = None

    def __len__(self) -> int:
        return sum(len(chunk.sizes) for chunk in self._chunks.values())

    def add(self, rank: int, steps: Sequence[dict[str, Any]], size_bytes: int) -> None:
        """Merges one rank's stats.

        Args:
            rank: the rank.
            steps: the content of its stats file; it is neither changed nor kept.
            size_bytes: the size of that file.

        Raises:
            StatsMergeError: its steps are not those of the ranks before, or it is damaged; nothing was merged.
        """
        chunk = self._chunks[rank // CHUNK_RANKS]
        chunk.merged.add(steps, self._names)
        chunk.sizes[rank] = size_bytes
        self._names = chunk.merged.names

    def result(self) -> PipelineStats:
        """The merged stats; the metrics of a single rank are as its file has them."""
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

    def to_cache(self) -> dict[str, Any]:
        """All chunks as plain JSON."""
        chunks = (
            {"sizes": {str(rank): size for rank, size in chunk.sizes.items()}, "merged": chunk.merged.to_dict()}
            for chunk in self._chunks.values()
            if chunk.sizes
        )
        return {"version": _VERSION, "chunks": list(chunks)}

    def take_over(
        self, cache: Mapping[str, Any], completed: Collection[int], sizes: Mapping[int, int] | None
    ) -> set[int]:
        """Takes the chunks of a cache of which every rank is completed and its stats file unchanged.

        Args:
            cache: what `to_cache` returned; another version is left alone.
            completed: the ranks whose marker stands.
            sizes: the sizes of the stats files that are there, by rank; None where they need not be looked at.

        Returns:
            The ranks whose stats need not be read.

        Raises:
            TypeError, ValueError, LookupError, AttributeError: the cache is damaged; nothing was taken.
        """
        # All of it is read before anything is taken, since a damaged cache must leave nothing behind.
        read = [_read_chunk(plain) for plain in cache["chunks"]] if cache["version"] == _VERSION else []
        for chunk in read:
            if all(rank in completed for rank in chunk.sizes) and (sizes is None or chunk.has_sizes(sizes)):
                self._chunks[min(chunk.sizes) // CHUNK_RANKS] = chunk
                self._names = chunk.merged.names
        return {rank for chunk in self._chunks.values() for rank in chunk.sizes}


def _read_chunk(plain: Mapping[str, Any]) -> _Chunk:
    sizes = {int(rank): size for rank, size in plain["sizes"].items()}
    if not sizes:
        raise ValueError("a chunk of the stats cache has no ranks")
    return _Chunk(StatsAccumulator.from_dict(plain["merged"]), sizes)


def ranks_in_cache(cache: Mapping[str, Any]) -> Iterable[int]:
    """The ranks that a cache covers."""
    return (int(rank) for chunk in cache["chunks"] for rank in chunk["sizes"])
