"""The inputs of a rank, as its steps get them, and whether they are still what was dealt."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

from ray_pipeline_core.inputs import at_hand
from ray_pipeline_core.inputs.deal import Share
from ray_pipeline_core.inputs.items import InputChangedError, ReadableSource
from ray_pipeline_core.inputs.readers import reads_files, restrict
from ray_pipeline_core.pipeline import Step
from ray_pipeline_core.redaction import redact_url
from ray_pipeline_core.worker.rank_log import RankLog


class RankInputs:
    """The inputs of a rank.

    Args:
        packed_source: the pickled source, if it has something to do in a worker.
        share: what was dealt to the rank; None if its run has no inputs.

    Attributes:
        at_hand: the input that was begun last, unless all have been taken since; None if there is none.
    """

    def __init__(self, packed_source: bytes | None, share: Share | None) -> None:
        self.at_hand: str | None = None
        self._packed_source = packed_source
        self._share = share

    @contextlib.contextmanager
    def given_to(self, steps: Sequence[Step], log: RankLog) -> Iterator[Any]:
        """Give what the first step gets as its data: the inputs of the rank, or None.

        A reader of datatrove's gets None, and reads the files of the rank.
        """
        if self._share is None:
            yield None
            return
        with at_hand.heard_by(partial(self._begin, log)):
            if reads_files(steps[0]):
                restrict(steps[0], self._share)
                yield None
            else:
                yield self._items(self._share)

    def _begin(self, log: RankLog, key: str) -> None:
        if key != self.at_hand:
            self.at_hand = key
            log.info(f"Input {redact_url(key)}")

    def _items(self, share: Share) -> Iterator[Any]:
        source = self._source()
        for item in share:
            at_hand.begun(item.key)
            yield item if source is None else source.load(item)
        self.at_hand = None

    def check_unchanged(self) -> None:
        """Check that all inputs still have the versions that were dealt.

        Raises:
            InputChangedError: one has changed, or is gone, so the rank may have read either version.
        """
        source = self._source() if self._share else None
        if source is None or not self._share:
            return
        now = source.current_versions(self._share)
        changed = next((item for item in self._share if now.get(item.key) != item.version), None)
        if changed is not None:
            self.at_hand = changed.key
            what = "is gone" if now.get(changed.key) is None else "has changed"
            raise InputChangedError(
                f"input {redact_url(changed.key)} {what} since the inputs were listed, so what this rank has read may "
                "be of either version; the next run lists the inputs again"
            )

    def _source(self) -> ReadableSource | None:
        return None if self._packed_source is None else _unpacked(bytes(self._packed_source))


@lru_cache(maxsize=1)
def _unpacked(packed_source: bytes) -> ReadableSource:
    source: ReadableSource = pickle.loads(packed_source)
    return source
