"""Sources of inputs: what the parameter takes, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ray_pipeline_core import ConfigError, InputItem
from ray_pipeline_core.inputs.items import ListedValues, as_source, listed_items


class Source:
    """A source that lists what it was given."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def list(self) -> Iterable[Any]:
        return self.items


def test_values_are_inputs_of_the_same_weight() -> None:
    source = as_source(["a", 2, ("b", 3)])
    assert isinstance(source, ListedValues)
    listed = listed_items(source)
    assert list(listed.values()) == [InputItem("a"), InputItem("2"), InputItem("('b', 3)")]
    assert [source.load(item) for item in listed.values()] == ["a", 2, ("b", 3)]
    assert source.load(InputItem("gone")) == "gone"


def test_any_object_that_lists_items_is_a_source() -> None:
    source = Source(InputItem("a", 2.5, "v"))
    assert as_source(source) is source
    assert listed_items(source) == {"a": InputItem("a", 2.5, "v")}
    assert as_source(None) is None


@pytest.mark.parametrize("inputs", ["s3://bucket/folder", b"bytes", 5, Source, object(), {"a": 1}])
def test_what_is_no_source_is_refused(inputs: object) -> None:
    with pytest.raises(ConfigError, match=r"^inputs=.*must be InputFiles\("):
        as_source(inputs)


@pytest.mark.parametrize(("values", "message"), [(["a", "a"], "twice"), ([object()], "no repr that is the same")])
def test_values_that_cannot_be_told_apart_are_refused(values: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        as_source(values)


@pytest.mark.parametrize(
    "item",
    ["a", ("a", 1), InputItem(""), InputItem("a", -1), InputItem("a", float("nan")), InputItem("a", 1, 5)],  # type: ignore[arg-type]
)
def test_wrong_items_are_named(item: Any) -> None:
    with pytest.raises(ConfigError, match=r"list\(\) must return InputItem"):
        listed_items(Source(item))


def test_key_that_is_listed_twice_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'a' twice"):
        listed_items(Source(InputItem("a"), InputItem("a")))
