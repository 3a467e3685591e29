"""Which rank gets which inputs: the deal, its file, and how it is made."""

from __future__ import annotations

import heapq
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring
from typing import Any

from ray_pipeline_core.inputs.items import InputItem
from ray_pipeline_core.validation import is_amount, is_integer, plain

Share = tuple[InputItem, ...]
_PARSED_LINES = 10_000
_TOLERANCE = 1e-9
_MAX_RANKS = 100_000_000
"""No run has as many; a larger number in the file is damage."""


@dataclass(frozen=True)
class Deal:
    """The inputs of each rank.

    Attributes:
        shares: the items of each rank, by rank, in the order of their keys.
    """

    shares: tuple[Share, ...] = ()

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.shares)

    def weight_of(self, rank: int) -> float:
        """Return the sum of the weights of a rank's items."""
        return math.fsum(item.weight for item in self.shares[rank])

    def weight_per_rank(self) -> float:
        """Return the mean weight of the ranks that have items; 0 if none has."""
        dealt = [share for share in self.shares if share]
        return math.fsum(item.weight for share in dealt for item in share) / len(dealt) if dealt else 0.0

    def items_per_rank(self) -> float:
        """Return the mean number of items of the ranks that have some; 0 if none has."""
        dealt = [len(share) for share in self.shares if share]
        return sum(dealt) / len(dealt) if dealt else 0.0

    def with_ranks(self, at_least: int) -> Deal:
        """Return the same deal with more ranks, which have nothing, if there are fewer."""
        return Deal((*self.shares, *[()] * (at_least - self.world_size)))

    def to_bytes(self) -> bytes:
        """Return the content of `inputs.jsonl`: a line per input, and one without a path for a rank that has none."""
        lines = io.StringIO()
        for rank, share in enumerate(self.shares):
            for item in share:
                lines.write(_line(item.key, plain(item.weight), item.version, rank))
            if not share:
                lines.write(_line(None, 0, None, rank))
        return lines.getvalue().encode(errors="backslashreplace")

    @classmethod
    def from_bytes(cls, content: bytes) -> Deal:
        """Return the deal in the content of `inputs.jsonl`.

        Raises:
            ValueError: it is damaged: a line is no input, or a rank is missing.
        """
        shares: dict[int, list[InputItem]] = {}
        for entry in _entries(content):
            rank, item = _parse(entry)
            share = shares.setdefault(rank, [])
            if item is not None:
                share.append(item)
        if sorted(shares) != list(range(len(shares))):
            raise ValueError("a rank is missing")
        return cls(tuple(tuple(shares[rank]) for rank in range(len(shares))))


def _line(path: str | None, size: float, version: str | None, rank: int) -> str:
    # A line for each of a million inputs: a fifth of the time that `json.dumps` takes.
    return f'{{"path": {_quoted(path)}, "size": {size!r}, "version": {_quoted(version)}, "rank": {rank}}}\n'


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring(text)


def _entries(content: bytes) -> Iterator[Any]:
    """Yield the JSON values of all lines; thousands are parsed at once, which takes a tenth of the time.

    Raises:
        ValueError: a line is no JSON, or the last one is not complete.
    """
    if content and not content.endswith(b"\n"):
        raise ValueError("its last line is cut off")
    lines = io.BytesIO(content)
    while chunk := b",".join(islice(lines, _PARSED_LINES)):
        try:
            yield from json.loads(b"[" + chunk + b"]")
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error


def _parse(entry: Any) -> tuple[int, InputItem | None]:
    """Return the rank and the item of a line; None if it says that the rank has none.

    Raises:
        ValueError: it has another form.
    """
    try:
        path, size, version, rank = entry["path"], entry["size"], entry["version"], entry["rank"]
    except (LookupError, TypeError):
        raise ValueError("no input") from None
    if not (is_integer(rank) and 0 <= rank < _MAX_RANKS):
        raise ValueError("no rank")
    if path is None:
        return rank, None
    if not (isinstance(path, str) and is_amount(size) and (version is None or isinstance(version, str))):
        raise ValueError("no input")
    return rank, InputItem(path, size, version)


def deal_out(items: Iterable[InputItem], ranks: int) -> tuple[Share, ...]:
    """Deal items so that all ranks get about the same weight: the heaviest first, each to the rank that has least.

    Its heaviest rank has at most 4/3 of the least possible (Graham, "Bounds on Multiprocessing Timing Anomalies",
    1969). The same items give the same deal, in whatever order they come.

    Args:
        items: what is dealt.
        ranks: number of ranks, at least 1 and at most one per item.
    """
    shares: list[list[InputItem]] = [[] for _ in range(ranks)]
    loads: list[tuple[float, int, int]] = [(0, 0, rank) for rank in range(ranks)]  # weight, items, rank
    for item in sorted(items, key=lambda one: (-one.weight, one.key)):
        weight, count, rank = loads[0]
        shares[rank].append(item)
        heapq.heapreplace(loads, (weight + item.weight, count + 1, rank))
    return tuple(tuple(sorted(share, key=_key)) for share in shares)


def _key(item: InputItem) -> str:
    return item.key


def first_deal(items: Sequence[InputItem], tasks: int, rank_weight: float | None) -> Deal:
    """Return the deal of a folder's first run.

    Args:
        items: all items.
        tasks: the number of ranks, if no weight is given; never more than items.
        rank_weight: the weight that a rank should have, at most.
    """
    if not items:
        return Deal()
    ranks = min(tasks, len(items)) if rank_weight is None else ranks_for(items, rank_weight)
    return Deal(deal_out(items, ranks))


def ranks_for(items: Sequence[InputItem], rank_weight: float, rank_items: float = math.inf) -> int:
    """Return how many ranks keep the mean weight of a rank.

    Args:
        items: what is dealt, at least one item.
        rank_weight: the weight of a rank, at most; 0 = unknown.
        rank_items: items of a rank, at most, where the items have no weight.
    """
    weight = math.fsum(item.weight for item in items)
    ratio = weight / rank_weight if weight and rank_weight else len(items) / rank_items
    return max(1, min(len(items), math.ceil(ratio - _TOLERANCE)))
