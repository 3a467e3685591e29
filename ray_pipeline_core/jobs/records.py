"""Records in the log of a job: what the driver tells its submitter, between the lines that people read.

A record is one or several lines, each with a prefix that nothing else prints, since it has a number that is made for
the job. So progress and result reach a submitter that can't see the run folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from ray_pipeline_core.strict_json import json_value

PREFIX = "@ray-pipeline"
_MAX_PIECE = 15_000  # Ray passes on pieces of some 20 kB
_MAX_OPEN_LINE = 65_536


class RecordWriter:
    """Writes records, each line with one call, so that what others write at the same time stays apart.

    Args:
        nonce: the number of the job.
        write: writes bytes; None = to the standard output of this process.
    """

    def __init__(self, nonce: str, write: Callable[[bytes], object] | None = None) -> None:
        self._start = f"{PREFIX}:{nonce}"
        self._write = write or _to_standard_output

    def write(self, kind: str, value: Any) -> None:
        """Write a record of some kind, whose value must be plain JSON."""
        text = json.dumps(json_value(value))
        pieces = [text[at : at + _MAX_PIECE] for at in range(0, len(text), _MAX_PIECE)]
        for number, piece in enumerate(pieces, 1):
            self._write(f"{self._start} {kind} {number}/{len(pieces)} {piece}\n".encode())


def _to_standard_output(line: bytes) -> None:
    while line:
        line = line[os.write(1, line) :]


class RecordReader:
    """Takes the records out of a log, of which it gets one piece after another.

    Args:
        nonce: the number of the job.

    Attributes:
        records: the newest complete record of each kind.
    """

    def __init__(self, nonce: str) -> None:
        self.records: dict[str, Any] = {}
        self._start = f"{PREFIX}:{nonce} " if nonce else "\0"
        self._open_line = ""
        self._pieces: dict[str, list[str]] = {}

    def feed(self, piece: str) -> str:
        """Take the next piece of the log, and return what of it is text for people, in whole lines."""
        *lines, self._open_line = (self._open_line + piece).split("\n")
        text = "".join(self._without_record(f"{line}\n") for line in lines)
        if len(self._open_line) > _MAX_OPEN_LINE and self._start not in self._open_line:
            kept = self._open_line[-len(self._start) :]
            text, self._open_line = text + self._open_line[: -len(self._start)], kept
        return text

    @property
    def open_line(self) -> str:
        """The beginning of a line whose end has not come yet."""
        return self._open_line

    def end(self) -> str:
        """Return what is left when the log has ended."""
        line, self._open_line = self._open_line, ""
        return self._without_record(line)

    def _without_record(self, line: str) -> str:
        text, mark, record = line.partition(self._start)
        if mark:
            self._take(record.rstrip("\n"))
        return text if mark else line

    def _take(self, record: str) -> None:
        try:
            kind, place, piece = record.split(" ", 2)
            number, _, count = place.partition("/")
            pieces = self._pieces.setdefault(kind, [])
            pieces[int(number) - 1 :] = [piece]
            if len(pieces) == int(count):
                self.records[kind] = json.loads("".join(self._pieces.pop(kind)))
        except (ValueError, RecursionError):  # cut off, as the last line of a driver that was killed
            return
