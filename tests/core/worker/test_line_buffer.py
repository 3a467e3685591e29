"""How output is cut into the lines of a log: carriage returns, unfinished lines, bytes in pieces."""

from __future__ import annotations

import pytest

from ray_pipeline_core.worker.line_buffer import MAX_UNFINISHED_CHARACTERS, LineBuffer


def lines_of(*pieces: bytes) -> list[str]:
    """Return what a buffer passes on for the pieces, the unfinished rest included."""
    buffer = LineBuffer()
    return [line for piece in pieces for line in buffer.feed(piece)] + buffer.close()


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"o", b"n", b"e\nt", b"wo"], ["one", "two"]),
        ([b"\n\n"], ["", ""]),
        ([b""], []),
        ([b"10 %\r20 %\r30 %\n"], ["30 %"]),
        ([b"\r10 %", b"\r20 %", b"\r30 %", b"\n"], ["30 %"]),
        ([b"one\r\ntwo\r", b"\n"], ["one", "two"]),
        ([b"one\r"], ["one"]),
        ([b"one\r\r\r", b"\rtwo"], ["two"]),
        ([b"caf\xc3", b"\xa9\n"], ["café"]),
        ([b"\xff\xfe\n"], ["\\xff\\xfe"]),
        ([b"caf\xc3"], ["caf\\xc3"]),
    ],
)
def test_output_is_cut_into_lines(pieces: list[bytes], lines: list[str]) -> None:
    assert lines_of(*pieces) == lines


def test_long_line_is_passed_on_in_pieces_before_it_ends() -> None:
    buffer = LineBuffer()
    pieces = [piece for _ in range(400_000) for piece in buffer.feed(b".")]
    assert pieces
    assert max(map(len, pieces)) <= MAX_UNFINISHED_CHARACTERS
    assert "".join(pieces + buffer.feed(b"!\nnext\n")) == "." * 400_000 + "!" + "next"


def test_end_of_a_line_that_was_passed_on_is_no_line_of_its_own() -> None:
    buffer = LineBuffer()
    assert buffer.take_stale() == []
    buffer.feed(b"half")
    assert buffer.take_stale() == []
    assert buffer.take_stale() == ["half"]
    assert buffer.feed(b"\nnext\n") == ["next"]


def test_line_that_is_still_being_replaced_is_shown_now_and_then() -> None:
    buffer = LineBuffer()
    shown = []
    for percent in range(10):
        buffer.feed(f"\r{percent} %".encode())
        shown += buffer.take_stale()
    assert shown == ["1 %", "3 %", "5 %", "7 %", "9 %"]
    assert buffer.feed(b"\n") == []


def test_stale_line_keeps_an_unfinished_character() -> None:
    buffer = LineBuffer()
    buffer.feed(b"caf\xc3")
    buffer.take_stale()
    assert buffer.take_stale() == ["caf"]
    assert buffer.feed(b"\xa9\n") == ["é"]
