"""The table of the version matrix, and its place in docs/versions.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.versions.environment_runs import SHOWN, Outcome

COLUMNS = ("Python", *SHOWN.values())
START, END = "<!-- versions -->\n", "<!-- /versions -->\n"


def to_markdown(outcomes: Iterable[Outcome]) -> str:
    """Return the table, a row for each outcome."""
    head = ["environment", *COLUMNS, "tests", "run on"]
    rows = [
        [f"`{one.name}`", *(one.versions.get(column, "") for column in COLUMNS), one.result, one.tested_on]
        for one in outcomes
    ]
    lines = (f"| {' | '.join(cells)} |" for cells in (head, *rows))
    return "\n".join([next(lines), "|---" * len(head) + "|", *lines])


def fill(page: Path, table: str) -> None:
    """Put the table between the page's two comments."""
    before, _, rest = page.read_text().partition(START)
    _, end, after = rest.partition(END)
    assert end, f"{page} has no {START.strip()} with {END.strip()} after it"
    page.write_text(f"{before}{START}\n{table}\n\n{END}{after}")
