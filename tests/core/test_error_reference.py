"""docs/errors.md has every message that users can get, each with a cause and a remedy."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from docs.tools import error_reference
from docs.tools.error_entries import ENTRIES, NEVER_SHOWN
from docs.tools.error_reference import IncompleteReferenceError, check_entries, error_classes
from docs.tools.messages import (
    LOGGED_ERROR,
    LOGGED_WARNING,
    RANK_FAILURE,
    RESULT_WARNING,
    Message,
    find_messages,
)
from docs.tools.source_index import SourceIndex
from ray_pipeline_core import errors

# What the remedies begin with: each tells the reader to do something.
VERBS = {
    *("Add", "Allow", "Check", "Choose", "Clear", "Correct", "Count", "Create", "Do", "Find", "Free", "Give", "Grant"),
    *("Install", "Leave", "Look", "Lower", "Make", "Move", "Name", "Pass", "Put", "Raise", "Read", "Remove", "Report"),
    *("Restore", "Return", "Run", "Set", "Start", "Use", "Wait", "Write"),
}


@pytest.fixture(scope="module")
def index() -> SourceIndex:
    return SourceIndex(error_reference.ROOT, error_reference.PACKAGES)


@pytest.fixture(scope="module")
def messages(index: SourceIndex) -> list[Message]:
    return find_messages(index)[0]


def found_in(folder: Path, **modules: str) -> set[tuple[str, str]]:
    """The messages of a package `sample` that has these modules, in addition to an error class of its own."""
    package = folder / "sample"
    package.mkdir()
    (package / "errors.py").write_text("class SampleError(Exception):\n    pass\n")
    for name, source in modules.items():
        (package / f"{name}.py").write_text(source)
    return {(one.group, one.template) for one in find_messages(SourceIndex(folder, ("sample",)))[0]}


# --- the page ---


def test_page_is_what_the_tool_writes() -> None:
    assert error_reference.PAGE.read_text() == error_reference.reference(), "run make docs"


def test_every_error_class_has_a_message_or_subclasses(messages: list[Message]) -> None:
    groups = {message.group for message in messages}
    classes = [member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, Exception)]
    assert len(classes) > 10
    assert [one.__name__ for one in classes if one.__name__ not in groups and not one.__subclasses__()] == []


def test_error_classes_of_the_page_are_those_of_the_package(index: SourceIndex) -> None:
    defined = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    assert set(error_classes(index)) == defined


def test_every_kind_of_message_is_found(messages: list[Message]) -> None:
    groups = {message.group for message in messages}
    assert {LOGGED_ERROR, LOGGED_WARNING, RANK_FAILURE, RESULT_WARNING, "ConfigError", "RunIncompleteError"} <= groups
    assert len(messages) > 100


def test_rows_of_the_page_have_three_cells() -> None:
    rows = [line for line in error_reference.PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.replace("\\|", "").count("|") != 4 or row.count("`") % 2] == []


# --- entries ---


def test_remedies_are_instructions() -> None:
    wrong = [
        f"{template}: {entry.remedy}"
        for template, entry in ENTRIES.items()
        if not entry.remedy.endswith(".") or entry.remedy.split()[0].rstrip(",") not in VERBS
    ]
    assert wrong == []


def test_causes_are_sentences() -> None:
    wrong = [f"{template}: {entry.cause}" for template, entry in ENTRIES.items() if not entry.cause.endswith(".")]
    assert [template for template, entry in ENTRIES.items() if len(entry.cause.split()) < 3] == []
    assert wrong == []


def test_messages_that_nobody_sees_have_a_reason() -> None:
    assert [template for template, reason in NEVER_SHOWN.items() if not reason.endswith(".")] == []
    assert set(NEVER_SHOWN) & set(ENTRIES) == set()


def test_message_without_an_entry_is_named(messages: list[Message]) -> None:
    added = Message("ConfigError", "tasks={value}: must be a prime number", "ray_pipeline_core/config.py:1")
    with pytest.raises(IncompleteReferenceError, match="must be a prime number") as caught:
        check_entries([*messages, added])
    assert "config.py:1" in str(caught.value)


def test_entry_without_a_message_is_named(messages: list[Message]) -> None:
    gone = next(message for message in messages if message.template in ENTRIES)
    with pytest.raises(IncompleteReferenceError, match="No message uses") as caught:
        check_entries([message for message in messages if message.template != gone.template])
    assert gone.template in str(caught.value)


def test_renamed_variable_needs_no_other_entry(messages: list[Message]) -> None:
    renamed = [
        Message(message.group, message.template.replace("{url}", "{address}"), message.place) for message in messages
    ]
    assert renamed != messages
    check_entries(renamed)


# --- finding messages ---


def test_message_is_found_wherever_its_parts_are(tmp_path: Path) -> None:
    work = """
def work(name):
    message = f"{name!r} wants too much: {advice(name)}"
    raise SampleError(message)
"""
    words = """
from sample.limits import LIMIT
def advice(name):
    return f"ask {name} for at most {LIMIT} of them"
"""
    found = found_in(tmp_path, limits="LIMIT = 3", words=words, work=work)
    assert found == {("SampleError", "{name} wants too much: ask {name} for at most 3 of them")}


def test_message_with_several_endings_is_found_with_each(tmp_path: Path) -> None:
    source = """
def ending(full):
    if full:
        return "free some space first"
    return "start it again"
def work(full):
    return SampleError("it stopped: " + ending(full))
"""
    expected = {("SampleError", f"it stopped: {end}") for end in ("free some space first", "start it again")}
    assert found_in(tmp_path, work=source) == expected


def test_requirements_are_found_with_their_parameters(tmp_path: Path) -> None:
    source = """
def require(ok, parameter, value, allowed):
    if not ok:
        raise SampleError(f"{parameter}={value!r}: {allowed}")
def require_integer(parameter, value, at_least):
    require(value >= at_least, parameter, value, f"must be an integer of at least {at_least}")
def check(self):
    for name in ("left", "right"):
        require_integer(name, getattr(self, name), at_least=2)
"""
    expected = {("SampleError", f"{name}={{value}}: must be an integer of at least 2") for name in ("left", "right")}
    assert found_in(tmp_path, work=source) == expected


def test_logged_messages_are_found_with_their_arguments(tmp_path: Path) -> None:
    source = """
def work(self, url, error):
    _log.warning("No answer from %s: %.80r", url, error)
    self._logger.error("100%% of %d failed", self._count)
    logger.info("all is well here")
"""
    expected = {(LOGGED_WARNING, "No answer from {url}: {error}"), (LOGGED_ERROR, "100% of {count} failed")}
    assert found_in(tmp_path, work=source) == expected


def test_warnings_of_results_are_found_through_lists(tmp_path: Path) -> None:
    source = """
def problems(ranks):
    found = []
    for rank in ranks:
        found.append(f"rank {rank} has no stats")
    return found
def finish(result, ranks):
    result.warnings.extend(problems(ranks))
    result.warnings.append("the cache is too old")
"""
    expected = {(RESULT_WARNING, "rank {rank} has no stats"), (RESULT_WARNING, "the cache is too old")}
    assert found_in(tmp_path, work=source) == expected


def test_message_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "work.py").write_text("def work(table, key):\n    raise ValueError(table[key].sentence())\n")
    readable, unreadable = find_messages(SourceIndex(tmp_path, ("sample",)))
    assert readable == []
    assert [message.template for message in unreadable] == ["{sentence}"]
