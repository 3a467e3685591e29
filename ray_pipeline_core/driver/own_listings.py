"""Files that steps list by themselves, in each rank: whether they are still those of the folder's first run."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core.inputs.files import InputFiles
from ray_pipeline_core.inputs.readers import listed_by, reads_files
from ray_pipeline_core.pipeline import Step, step_name
from ray_pipeline_core.redaction import get_logger
from ray_pipeline_core.validation import is_integer

logger = get_logger(__name__)

_MAX_STORED_NAMES = 1000
_MAX_SHOWN_NAMES = 3


@dataclass(frozen=True)
class OwnListing:
    """The files that a step lists now.

    Attributes:
        index: the index of the step.
        name: its name.
        paths: the files, in order.
    """

    index: int
    name: str
    paths: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what a later listing can be compared with, as plain JSON."""
        digest = hashlib.sha256("\n".join(self.paths).encode(errors="surrogateescape")).hexdigest()
        names = list(self.paths) if len(self.paths) <= _MAX_STORED_NAMES else None
        return {"step": self.index, "files": len(self.paths), "digest": digest, "names": names}

    def differs_from(self, earlier: Mapping[str, Any]) -> bool:
        """Return whether the listing is another one than what `to_dict` once returned."""
        return is_integer(earlier.get("files")) and earlier.get("digest") != self.to_dict()["digest"]


def changed_listing(listing: OwnListing, earlier: Mapping[str, Any]) -> str:
    """Return what to say of a listing that differs from an earlier one."""
    return (
        f"step {listing.index} ({listing.name}) lists {len(listing.paths)} files now, and {earlier['files']} in the "
        f"first run of this folder{_named(listing.paths, earlier.get('names'))}; each rank takes its files from that "
        "listing, so a rank that runs now reads others than it did, and completed ranks are not run again: use "
        "inputs=InputFiles(...), or another logging_dir"
    )


def _named(paths: Sequence[str], names: Any) -> str:
    if not isinstance(names, list):
        return ""
    new, gone = sorted(set(paths).difference(names)), sorted(set(names).difference(paths))
    parts = [f"{kind}: {_shorten(some)}" for kind, some in (("new", new), ("gone", gone)) if some]
    return f" ({'; '.join(parts)})"


def _shorten(names: Sequence[str]) -> str:
    more = len(names) - _MAX_SHOWN_NAMES
    return ", ".join(names[:_MAX_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def own_listings(steps: Sequence[Step]) -> Iterator[OwnListing]:
    """Yield what steps list by themselves now: datatrove's readers of files, and steps that hold `InputFiles`."""
    for index, step in enumerate(steps):
        try:
            paths = sorted(_paths(step))
        except Exception as error:  # noqa: BLE001 - it is only compared; the ranks will say what is wrong
            logger.debug("step %d can't be asked for its files: %s", index, error)
            continue
        if paths:
            yield OwnListing(index, step_name(step), tuple(paths))


def _paths(step: Any) -> list[str]:
    if reads_files(step):
        return listed_by(step)
    return [item.key for inputs in _held_inputs(step) for item in inputs.list()]


def _held_inputs(step: Any) -> Iterator[InputFiles]:
    if isinstance(step, functools.partial):
        yield from (value for value in (*step.args, *step.keywords.values()) if isinstance(value, InputFiles))
    yield from (value for value in getattr(step, "__dict__", {}).values() if isinstance(value, InputFiles))


def stored_listings(executor: Mapping[str, Any] | None) -> dict[int, Mapping[str, Any]]:
    """Return the listings in the content of `executor.json`, by the index of the step."""
    stored = (executor or {}).get("listings")
    entries = stored if isinstance(stored, list) else []
    return {entry["step"]: entry for entry in entries if isinstance(entry, dict) and is_integer(entry.get("step"))}
