"""What a pipeline looks like from outside, so that a run folder is not continued with another one."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from ray_pipeline_core.pipeline import Step, step_name

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+|object at |<locals>.<lambda>")
_SECRET_WORDS = (
    r"passw|passphrase|pwd|secret|token(?!iz)|credential|(?:api|access|account)[_-]?key|connection_?str|private|"
    r"auth(?!ors?(?:_|\b))|signature|cookie|bearer|(?:^|(?<![a-z]))(?:pass|pw|sig|sas)(?![a-z])"
)
_SECRET = re.compile(_SECRET_WORDS, re.IGNORECASE)
_SECRET_NUMBER = re.compile(r"passw|pwd|secret", re.IGNORECASE)
# What follows such a name in a text: quoted, or up to the next thing that ends a value.
_SECRET_IN_TEXT = re.compile(
    rf"""(\b[\w-]{{0,60}}?(?:{_SECRET_WORDS})\w{{0,60}}['"]?\s*[=:]\s*)"""
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?:(?:bearer|basic)\s+)?[^\s,;&(){}\[\]'"]+)""",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(://[^/@:\s]*:|https?://)[^/@\s]+@")
_LONGEST_TEXT = 500
_LARGE = 10_000
_MAIN = "__main__"
HIDDEN = "***"


@dataclass(frozen=True)
class Fingerprint:
    """World size and steps of a run.

    Attributes:
        world_size: number of ranks.
        steps: one mapping per step: `step`, its type's qualified name and its own, and `parameters`, the text of
            each of its parameters that has a stable one.
    """

    world_size: int
    steps: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, steps: Sequence[Step], world_size: int) -> Fingerprint:
        """The fingerprint of a pipeline cut into `world_size` ranks."""
        return cls(world_size, tuple(describe_step(step) for step in steps))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"world_size": self.world_size, "steps": [dict(step) for step in self.steps]}

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """Why a folder with the fingerprint `earlier` must not be continued; empty when it may be."""
        found = []
        if earlier.get("world_size") != self.world_size:
            found.append(f"it was cut into {earlier.get('world_size')} ranks, now into {self.world_size}")
        before = [step.get("step") for step in earlier.get("steps") or ()]
        now = [step["step"] for step in self.steps]
        if "steps" in earlier and not (len(before) == len(now) and all(map(_is_same_step, before, now))):
            found.append(f"its steps were {before}, now {now}")
        return found

    def changed_parameters(self, earlier: Mapping[str, Any]) -> list[str]:
        """A sentence for each step whose parameters differ from those in `earlier`."""
        sentences = []
        for index, (now, before) in enumerate(zip(self.steps, earlier.get("steps") or (), strict=False)):
            names = _changed(before.get("parameters") or {}, now["parameters"])
            if names and _is_same_step(before.get("step"), now["step"]):
                sentences.append(
                    f"step {index} ({now['step']}): parameters changed since the earlier run of this folder: "
                    f"{', '.join(names)}; ranks completed then keep their old outputs"
                )
        return sentences


def _is_same_step(before: object, now: object) -> bool:
    """Whether two names mean the same: a script calls its module `__main__`, and who imports it by its name."""
    one, other = sorted((str(before), str(now)), key=lambda name: not name.startswith(f"{_MAIN}."))
    return one == other or (one.startswith(f"{_MAIN}.") and other.endswith(one.removeprefix(_MAIN)))


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    # A parameter that only one side has may have lost or gained a stable text: a false alarm is worse than a miss.
    return [
        f"{name} ({_short(before[name])} -> {_short(now[name])})"
        for name in now
        if name in before and before[name] != now[name]
    ]


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe_step(step: Step) -> dict[str, Any]:
    """Type, name and stable parameters of a step, without anything secret."""
    return {"step": _identity(step), "parameters": _parameters(step)}


def _identity(step: Step) -> str:
    if not callable(step):
        return "data"
    if isinstance(step, functools.partial):
        return _identity(step.func)
    if hasattr(step, "__qualname__"):
        return f"{step.__module__}.{step.__qualname__}"
    kind = f"{type(step).__module__}.{type(step).__qualname__}"
    name = step_name(step) if hasattr(step, "stats") else ""
    return f"{kind} ({name})" if name and _ADDRESS.search(name) is None else kind


def _parameters(step: Step) -> dict[str, str]:
    if not callable(step):
        return _stable_texts({"items": len(step)})
    if isinstance(step, functools.partial):
        return _stable_texts(_arguments(step))
    if hasattr(step, "__qualname__"):
        return {}
    return _stable_texts({key: value for key, value in vars(step).items() if key != "stats"} if _has_vars(step) else {})


def _arguments(step: functools.partial[Any]) -> dict[str, Any]:
    """What a partial holds, by the names of the function's parameters as far as they can be told."""
    try:
        names = list(inspect.signature(step.func).parameters)
    except (TypeError, ValueError):
        names = []
    names += [str(index) for index in range(len(names), len(step.args))]
    return dict(zip(names, step.args, strict=False)) | dict(step.keywords)


def _has_vars(step: object) -> bool:
    return hasattr(step, "__dict__")


def _stable_texts(values: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: stable_text(value) for name, value in values.items() if not is_secret(name, value)}
    return {name: text for name, text in texts.items() if text is not None}


def is_secret(name: str, value: object) -> bool:
    """Whether a value of this name must not be written anywhere; `max_tokens=100` may."""
    if value is None or isinstance(value, bool | float):
        return False
    return (_SECRET_NUMBER if isinstance(value, int) else _SECRET).search(name) is not None


def without_secrets(value: object) -> Any:
    """A copy of nested containers in which no secret is left, and sets have an order."""
    if _is_large(value):
        return f"<{type(value).__qualname__} of {len(value)}>"  # type: ignore[arg-type]
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: HIDDEN if is_secret(str(key), item) else without_secrets(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return _redacted(value) if isinstance(value, str) else value


def _is_large(value: object) -> bool:
    """Whether a value is data rather than a parameter: nobody reads its text, and looking through it takes long."""
    return isinstance(value, str | bytes | bytearray | list | tuple | set | frozenset | dict) and len(value) > _LARGE


def _redacted(text: str) -> str:
    return _SECRET_IN_TEXT.sub(rf"\1{HIDDEN}", _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text))


def stable_text(value: object) -> str | None:
    """The value's text, without secrets, if it is the same in every process; else None."""
    if _is_large(value):
        return None
    try:
        text = repr(without_secrets(_path_of_folder(value)))
        text = "" if len(text) > _LARGE else _redacted(text)
    except Exception:  # noqa: BLE001 - a repr may raise anything, and then there is no text
        return None
    return None if not text or _ADDRESS.search(text) or len(text) > _LONGEST_TEXT else text


def _path_of_folder(value: Any) -> Any:
    """The path of a folder on some filesystem, whose own text has an address; anything else as it is."""
    path = getattr(value, "path", None)
    return path if isinstance(path, str) and hasattr(value, "fs") else value
