"""Writes docs/errors.md: every message that users can get, with its cause and its remedy.

`make docs` runs it. The messages come from the source of the packages, causes and remedies from `error_entries`; a
message without an entry, or an entry without a message, is an error.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from docs.tools.error_entries import ENTRIES, NEVER_SHOWN, Entry
from docs.tools.messages import (
    FLOW_STATE,
    LOGGED_ERROR,
    LOGGED_WARNING,
    RANK_FAILURE,
    RESULT_WARNING,
    Message,
    find_messages,
)
from docs.tools.source_index import SourceIndex, last_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ray_pipeline_core", "airflow_provider", "prefect_integration")
PAGE = ROOT / "docs" / "errors.md"
ROOT_ERROR = "RayPipelineError"

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_HEAD = """\
# Errors and warnings

<!-- `make docs` writes this page. Causes and remedies are in docs/tools/error_entries.py. -->

Every message that users can get, what causes it, and what to do. A name in braces, such as `{name}`, stands for a
value. The errors come first, in the order of their classes, each with its subclasses after it; then what a result or
a log says of single ranks; then warnings. Within a section, messages are in alphabetical order.
[failures.md](failures.md) says what the run does when something fails.
"""
_TABLE_HEAD = "| message | cause | remedy |\n|---|---|---|"


@dataclass(frozen=True)
class Section:
    """A heading of the page and the groups of messages below it.

    Attributes:
        title: the heading.
        introduction: what stands between heading and table.
        groups: the groups of its messages.
    """

    title: str
    introduction: str
    groups: tuple[str, ...]


_LAST_SECTIONS = (
    Section(
        "Failures of ranks",
        "What `RankFailure.message` says, in the errors above, in `result.json`, in the history and in logs. The text "
        "of a step's own exception, or of one of Ray's errors, is not listed.",
        (RANK_FAILURE,),
    ),
    Section("States of Prefect flow runs", "The message of a state that this package sets.", (FLOW_STATE,)),
    Section(
        "Warnings in results",
        "What `RunResult.warnings`, `RunPlan.warnings` and `result.json` say; the log has them too. A damaged stats "
        "file, or in a plan the folder of another pipeline, is a warning with the message of the error above. What "
        "many ranks have in common is said once, of the first of them, with all ranks at the end.",
        (RESULT_WARNING,),
    ),
    Section("Errors in logs", "", (LOGGED_ERROR,)),
    Section("Warnings in logs", "", (LOGGED_WARNING,)),
)


class IncompleteReferenceError(Exception):
    """Messages and entries do not match."""


def key_of(template: str) -> str:
    """Return what an entry is found by: the message without the names of its placeholders, which may change."""
    return _PLACEHOLDER.sub("{}", template)


def error_classes(index: SourceIndex, name: str = ROOT_ERROR) -> list[str]:
    """Return the error classes of the packages in the order of the tree, each before its subclasses."""
    subclasses = [one for one, node in index.classes.items() if name in map(last_name, node.bases)]
    return [name, *(further for one in subclasses for further in error_classes(index, one))]


def check_entries(
    messages: Iterable[Message], entries: Mapping[str, Entry] = ENTRIES, never_shown: Mapping[str, str] = NEVER_SHOWN
) -> None:
    """Compare messages and entries.

    Raises:
        IncompleteReferenceError: a message has no entry, or an entry has no message; the text names them.
    """
    places = {key_of(message.template): message for message in messages}
    known = {key_of(template): template for template in (*entries, *never_shown)}
    missing = [f"  {one.template}\n    ({one.place})" for key, one in places.items() if key not in known]
    unused = [f"  {template}" for key, template in known.items() if key not in places]
    problems = [
        "\n".join([heading, *lines])
        for heading, lines in (
            ("These messages have no entry in docs/tools/error_entries.py; add one:", missing),
            ("No message uses these entries of docs/tools/error_entries.py; remove them:", unused),
        )
        if lines
    ]
    if problems:
        raise IncompleteReferenceError("\n".join(problems))


def reference() -> str:
    """Return the page.

    Raises:
        IncompleteReferenceError: messages and entries do not match, or what a message says can't be told.
    """
    index = SourceIndex(ROOT, PACKAGES)
    messages, unreadable = find_messages(index)
    if unreadable:
        listed = "\n".join(f"  {one.template} ({one.place})" for one in unreadable)
        raise IncompleteReferenceError(f"The words of these messages can't be found in the source:\n{listed}")
    check_entries(messages)
    shown = [message for message in messages if key_of(message.template) not in map(key_of, NEVER_SHOWN)]
    parts = [_HEAD, *(_section(section, shown) for section in _sections(index, shown))]
    return "\n".join(part for part in parts if part)


def _sections(index: SourceIndex, messages: list[Message]) -> list[Section]:
    tree = error_classes(index)
    listed = {*tree, *(group for section in _LAST_SECTIONS for group in section.groups)}
    others = sorted({message.group for message in messages} - listed)
    own = [Section(name, _introduction(index, name), (name,)) for name in tree]
    builtin = tuple(name for name in others if name in index.classes or not index.imported_from(name))
    foreign = tuple(name for name in others if name not in builtin)
    return [
        *own,
        Section("Other exceptions", f"Exceptions that do not derive from `{ROOT_ERROR}`: {_listed(builtin)}.", builtin),
        Section(
            "Errors of orchestrators",
            f"{_listed(foreign)} carry the message of one of the errors above, with this exception.",
            foreign,
        ),
        *_LAST_SECTIONS,
    ]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _introduction(index: SourceIndex, name: str) -> str:
    """Return the first line of the class's docstring, its place in the tree, and whether a retry may help."""
    node = index.classes[name]
    summary = (ast.get_docstring(node) or "").splitlines()[0]
    bases = [last_name(base) for base in node.bases if last_name(base) in index.classes]
    place = f" A subclass of {_listed(tuple(bases))}." if bases else ""
    retryable = " The same call may succeed later: `retryable` is True." if _is_retryable(node) else ""
    return f"{summary}{place}{retryable}"


def _is_retryable(node: ast.ClassDef) -> bool:
    return any(
        isinstance(one, ast.AnnAssign)
        and last_name(one.target) == "retryable"
        and isinstance(one.value, ast.Constant)
        and one.value.value is True
        for one in node.body
    )


def _section(section: Section, messages: list[Message]) -> str:
    templates = {message.template for message in messages if message.group in section.groups}
    is_error = section.groups[:1] == (section.title,)
    if not templates and not is_error:
        return ""
    rows = [_row(template) for template in sorted(templates, key=lambda one: (one.lower().lstrip("{"), one))]
    heading = f"## `{section.title}`" if is_error else f"## {section.title}"
    table = "\n".join([_TABLE_HEAD, *rows]) if rows else "A base class; nothing raises it directly."
    return "\n\n".join(part for part in (heading, section.introduction, table) if part) + "\n"


def _row(template: str) -> str:
    entry = next(entry for known, entry in ENTRIES.items() if key_of(known) == key_of(template))
    return f"| `{_cell(template)}` | {_cell(entry.cause)} | {_cell(entry.remedy)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page."""
    try:
        page = reference()
    except IncompleteReferenceError as error:
        sys.exit(str(error))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
