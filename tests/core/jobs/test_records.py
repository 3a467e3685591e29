"""Records in a log that other lines are in too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.jobs.records import RecordReader, RecordWriter


def _log(*records: tuple[str, object], nonce: str = "n1") -> str:
    lines: list[bytes] = []
    writer = RecordWriter(nonce, lines.append)
    for kind, value in records:
        writer.write(kind, value)
    return b"".join(lines).decode()


def test_records_are_taken_out_of_the_text() -> None:
    reader = RecordReader("n1")
    log = (
        "starting\n"
        + _log(("progress", {"completed": 1}))
        + "half "
        + _log(("progress", {"completed": 2}))
        + "a line\n"
    )
    assert reader.feed(log) == "starting\nhalf a line\n"
    assert reader.records == {"progress": {"completed": 2}}


@given(st.text(max_size=60_000), st.lists(st.integers(1, 9_000), min_size=1, max_size=30))
def test_large_record_comes_back_whatever_pieces_the_log_comes_in(text: str, sizes: list[int]) -> None:
    reader, log, shown, at = RecordReader("n1"), "before\n" + _log(("result", {"text": text})) + "after", "", 0
    for size in sizes:
        shown += reader.feed(log[at : at + size])
        at += size
    shown += reader.feed(log[at:]) + reader.end()
    assert shown == "before\nafter"
    assert reader.records == {"result": {"text": text}}


def test_lines_are_short() -> None:
    assert max(map(len, _log(("result", ["x" * 100_000])).splitlines())) < 20_000


def test_record_of_another_job_is_text() -> None:
    foreign = _log(("result", {"ok": True}), nonce="n2")
    reader = RecordReader("n1")
    assert reader.feed(foreign) == foreign
    assert reader.records == {}


def test_record_that_was_cut_off_is_ignored() -> None:
    reader = RecordReader("n1")
    log = _log(("result", "x" * 40_000)).splitlines(keepends=True)
    reader.feed(log[0] + log[2] + _log(("progress", 1))[:-2])
    assert reader.end() == ""
    assert reader.records == {}


def test_line_without_an_end_does_not_fill_the_memory() -> None:
    reader = RecordReader("n1")
    shown = "".join(reader.feed("x" * 50_000) for _ in range(10))
    assert len(shown) > 400_000
    assert len(shown) + len(reader.end()) == 500_000
