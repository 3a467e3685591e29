"""Cuts a stream of bytes into the lines of a log."""

from __future__ import annotations

import codecs

MAX_UNFINISHED_CHARACTERS = 65536
"""Length above which a line is passed on in pieces, before it ends."""


class LineBuffer:
    """Collects output until a line ends, as a terminal would show it: text after a carriage return replaces the line.

    Invalid UTF-8 is escaped. A character may arrive in several pieces.

    Attributes:
        unfinished_bytes: size of the output that was not passed on yet.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.unfinished_bytes = 0
        self._start_line()

    def _start_line(self) -> None:
        self._parts: list[str] = []  # strings are joined once, since a long line may come in many small parts
        self._length = 0
        self._is_returned = False  # whether a carriage return was the last character
        self._is_continued = False  # whether the beginning of the line was passed on
        self._is_stale = False

    def feed(self, data: bytes) -> list[str]:
        """Add output, and return the lines that it completes, and pieces of a line that is too long."""
        *finished, rest = self._decoder.decode(data).split("\n")
        lines: list[str] = []
        for text in finished:
            self._add(text)
            lines += self._take_line()
        self._add(rest)
        self.unfinished_bytes = len(data) - data.rfind(b"\n") - 1 + (0 if finished else self.unfinished_bytes)
        if self._length > MAX_UNFINISHED_CHARACTERS:
            lines += self._take_pieces()
        return lines

    def take_stale(self) -> list[str]:
        """Return the unfinished line if it has been there since the previous call."""
        if self._is_stale and self._parts:
            return self._take_pieces()
        self._is_stale = bool(self._parts)
        return []

    def close(self) -> list[str]:
        """Return the unfinished line, with the bytes of an unfinished character."""
        self._add(self._decoder.decode(b"", final=True))
        return self._take_line() if self._parts else []

    def _add(self, text: str) -> None:
        first, *replacements = text.split("\r")
        self._append(first)
        for replacement in replacements:
            self._is_returned = True
            self._append(replacement)

    def _append(self, text: str) -> None:
        if not text:
            return
        if self._is_returned:
            self._parts, self._length, self._is_returned = [], 0, False
        self._parts.append(text)
        self._length += len(text)

    def _take_line(self) -> list[str]:
        is_empty_rest = self._is_continued and not self._parts
        line = "".join(self._parts)
        self._start_line()
        return [] if is_empty_rest else [line]

    def _take_pieces(self) -> list[str]:
        text = "".join(self._parts)
        is_returned = self._is_returned
        self.unfinished_bytes = 0
        self._start_line()
        self._is_returned, self._is_continued = is_returned, True
        return [text[i : i + MAX_UNFINISHED_CHARACTERS] for i in range(0, len(text), MAX_UNFINISHED_CHARACTERS)]
