"""What identifies a pipeline in its run folder, so that the folder is not continued with another one."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core.pipeline import Step, has_stats, step_name
from ray_pipeline_core.redaction import MAX_DESCRIBED_LENGTH, is_large, is_secret, redact_values, without_secrets

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+|object at |<locals>.<lambda>")
_MAX_STABLE_LENGTH = 500
_MAX_SHOWN_LENGTH = 60
_MAIN = "__main__"


@dataclass(frozen=True)
class Fingerprint:
    """World size and steps of a run.

    Attributes:
        world_size: number of ranks.
        steps: one mapping per step: `step`, the qualified name of its type with the step's own name, and
            `parameters`, the string of each parameter that has a stable one.
    """

    world_size: int
    steps: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, steps: Sequence[Step], world_size: int) -> Fingerprint:
        """Return the fingerprint of a pipeline that runs on `world_size` ranks."""
        return cls(world_size, tuple(describe_step(step) for step in steps))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"world_size": self.world_size, "steps": [dict(step) for step in self.steps]}

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """Return why a folder with the fingerprint `earlier` must not be continued; nothing if it may be."""
        found = []
        if earlier.get("world_size") != self.world_size:
            found.append(f"it was cut into {earlier.get('world_size')} ranks, now into {self.world_size}")
        before = [step.get("step") for step in earlier.get("steps") or ()]
        now = [step["step"] for step in self.steps]
        if "steps" in earlier and not (len(before) == len(now) and all(map(_is_same_step, before, now))):
            found.append(f"its steps were {before}, now {now}")
        return found

    def changed_parameters(self, earlier: Mapping[str, Any]) -> list[str]:
        """Return a sentence for each step whose parameters differ from those in `earlier`."""
        sentences = []
        for index, (now, before) in enumerate(zip(self.steps, earlier.get("steps") or (), strict=False)):
            names = _changed(before.get("parameters") or {}, now["parameters"])
            if names and _is_same_step(before.get("step"), now["step"]):
                sentences.append(
                    f"step {index} ({now['step']}): parameters changed since the earlier run in this folder: "
                    f"{', '.join(names)}; its completed ranks keep their old outputs"
                )
        return sentences


def _is_same_step(before: object, now: object) -> bool:
    """Return whether two names mean the same step: a script is `__main__` to itself and has a name to importers."""
    one, other = sorted((str(before), str(now)), key=lambda name: not name.startswith(f"{_MAIN}."))
    return one == other or (one.startswith(f"{_MAIN}.") and other.endswith(one.removeprefix(_MAIN)))


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    # A parameter that only one side has may have lost or gained a stable string: a false alarm is worse than a miss.
    return [
        f"{name} ({_shorten(before[name])} -> {_shorten(now[name])})"
        for name in now
        if name in before and before[name] != now[name]
    ]


def _shorten(string: str) -> str:
    return string if len(string) <= _MAX_SHOWN_LENGTH else f"{string[: _MAX_SHOWN_LENGTH - 3]}..."


def describe_step(step: Step) -> dict[str, Any]:
    """Return the type, name and stable parameters of a step, without anything secret."""
    return {"step": _identity(step), "parameters": _parameters(step)}


def _identity(step: Step) -> str:
    if not callable(step):
        return "data"
    if isinstance(step, functools.partial):
        return _identity(step.func)
    if hasattr(step, "__qualname__"):
        return f"{step.__module__}.{step.__qualname__}"
    kind = f"{type(step).__module__}.{type(step).__qualname__}"
    name = step_name(step) if has_stats(step) else ""
    return f"{kind} ({name})" if name and _ADDRESS.search(name) is None else kind


def _parameters(step: Step) -> dict[str, str]:
    if not callable(step):
        return _stable_strings({"items": len(step)})
    if isinstance(step, functools.partial):
        return _stable_strings(_arguments(step))
    if hasattr(step, "__qualname__"):
        return {}
    return _stable_strings({key: value for key, value in getattr(step, "__dict__", {}).items() if key != "stats"})


def _arguments(step: functools.partial[Any]) -> dict[str, Any]:
    """Return the arguments of a partial, by the names of the function's parameters as far as they are known."""
    try:
        names = list(inspect.signature(step.func).parameters)
    except (TypeError, ValueError):
        names = []
    names += [str(index) for index in range(len(names), len(step.args))]
    return dict(zip(names, step.args, strict=False)) | dict(step.keywords)


def _stable_strings(values: Mapping[str, Any]) -> dict[str, str]:
    strings = {name: stable_string(value) for name, value in values.items() if not is_secret(name, value)}
    return {name: string for name, string in strings.items() if string is not None}


def stable_string(value: object) -> str | None:
    """Return the value's `repr` without secrets if it is the same in every process, else None."""
    if is_large(value):
        return None
    try:
        string = repr(without_secrets(_path_of_folder(value)))
        string = "" if len(string) > MAX_DESCRIBED_LENGTH else redact_values(string)
    except Exception:  # noqa: BLE001 - a repr may raise anything, and then there is no string
        return None
    return None if not string or _ADDRESS.search(string) or len(string) > _MAX_STABLE_LENGTH else string


def _path_of_folder(value: Any) -> Any:
    """Return the path of a folder on some filesystem, since its repr has an address; anything else as it is."""
    path = getattr(value, "path", None)
    return path if isinstance(path, str) and hasattr(value, "fs") else value
