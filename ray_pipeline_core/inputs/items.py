"""Items of a source: what is dealt to the ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.redaction import shown
from ray_pipeline_core.validation import is_amount, plain


class InputChangedError(Exception):
    """An input has changed while its rank read it, so the rank fails; the next run lists the inputs again.

    No run raises it: it is the `error_type` of a rank's failure.
    """


class InputItem(NamedTuple):
    """One input, such as a file, a partition of a table, or a range of offsets.

    Attributes:
        key: what identifies it in its source, for good: a path, say. No two items of a source have the same.
        weight: how much work it is, compared with others; for a file its size in bytes.
        version: changes whenever its content does; None if the source knows none, so that no change is noticed.
    """

    key: str
    weight: float = 1
    version: str | None = None


@runtime_checkable
class InputSource(Protocol):
    """Where the inputs of a run come from: any object with this method.

    It is called in the driver, when the executor's turn comes, and by `plan()`. The first step gets the items.
    """

    def list(self) -> Iterable[InputItem]:
        """Return all items that there are now, in any order."""
        ...


@runtime_checkable
class ReadableSource(InputSource, Protocol):
    """A source that is also sent to the workers, to make what the first step gets of the items, and to look again."""

    def load(self, item: InputItem) -> Any:
        """Return what the first step gets for an item."""
        ...

    def current_versions(self, items: Sequence[InputItem]) -> dict[str, str | None]:
        """Return the versions that items have now, by key; None for what is gone."""
        ...


class ListedValues:
    """A source that has the values of a sequence; the first step gets the values.

    Args:
        values: strings, or values whose `repr` is the same in every process. It is their key.

    Raises:
        ConfigError: two values have the same key, or the `repr` of one differs from process to process.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = {_key_of(value): value for value in values}
        if len(self._values) < len(values):
            raise ConfigError(f"inputs={shown(values)}: must not have the same value twice")

    def __repr__(self) -> str:
        return f"{len(self._values)} values"

    def list(self) -> Iterable[InputItem]:
        """Return an item of weight 1 for each value."""
        return map(InputItem, self._values)

    def load(self, item: InputItem) -> Any:
        """Return the value; the key of one that is not listed any more."""
        return self._values.get(item.key, item.key)

    def current_versions(self, items: Sequence[InputItem]) -> dict[str, str | None]:
        """Return None for each item: values have no versions."""
        return {item.key: None for item in items}


def _key_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    key = repr(value)
    if " at 0x" in key:
        raise ConfigError(
            f"inputs: {shown(value)} has no repr that is the same in every process, so it can't be found again; use "
            "strings, numbers or tuples of them, or an object with list() -> Iterable[InputItem]"
        )
    return key


def as_source(inputs: object) -> InputSource | None:
    """Return the source that the parameter `inputs` stands for.

    Raises:
        ConfigError: it is neither a source nor a sequence of values.
    """
    if inputs is None:
        return None
    if _is_values(inputs):
        return ListedValues(inputs)
    if not isinstance(inputs, InputSource) or isinstance(inputs, type):
        raise ConfigError(
            f"inputs={shown(inputs)}: must be InputFiles('s3://bucket/folder', glob='**/*.csv'), a list of values, or "
            "an object with list() -> Iterable[InputItem]"
        )
    return inputs


def _is_values(inputs: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes | bytearray)


def listed_items(source: InputSource) -> dict[str, InputItem]:
    """Return the items that a source lists now, by key; see `by_key`."""
    return by_key(source, source.list())


def by_key(source: InputSource | None, listed: Iterable[InputItem]) -> dict[str, InputItem]:
    """Return items that a source has listed by key.

    Raises:
        ConfigError: what it lists is not as `InputItem` demands.
    """
    items: dict[str, InputItem] = {}
    for item in listed:
        if not _is_valid(item):
            raise ConfigError(
                f"inputs: {shown(source)} lists {shown(item)}; list() must return InputItem(key, weight, version), "
                "with a string as key, a number of at least 0 as weight, and a string or None as version"
            )
        if item.key in items:
            raise ConfigError(f"inputs: {shown(source)} lists {shown(item.key)} twice; the keys of items must differ")
        items[item.key] = item
    return items


def _is_valid(item: Any) -> bool:
    if not isinstance(item, InputItem):
        return False
    key: Any = item.key
    version: Any = item.version
    names_ok = isinstance(key, str) and key != "" and (version is None or isinstance(version, str))
    return names_ok and is_amount(plain(item.weight))


def digest_of(items: Iterable[Any]) -> str:
    """Return a digest that listings of the same items have in any order, and others have not."""
    # The repr of a plain tuple takes half of the time of a named one's.
    lines = sorted([repr(tuple(item)) if isinstance(item, InputItem) else repr(item) for item in items])
    return sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
