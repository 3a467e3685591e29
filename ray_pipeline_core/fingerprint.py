"""What identifies a pipeline in its run folder, so that the folder is not continued with another one."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from ray_pipeline_core.function_code import CODE, captured_values, code_digest, functions_by_value, is_pickled_by_value
from ray_pipeline_core.pipeline import Step, has_stats, step_name
from ray_pipeline_core.rank_failures import format_ranks, parse_ranks
from ray_pipeline_core.redaction import HIDDEN, MAX_DESCRIBED_LENGTH, is_large, is_secret, redact, without_secrets
from ray_pipeline_core.validation import is_integer

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+|object at |<locals>.<lambda>")
_MAX_STABLE_LENGTH = 500
_MAX_SHOWN_LENGTH = 60
_MAX_SHOWN_RANGES = 20
_MAIN = "__main__"
FORMAT_VERSION = 1
"""The version of the format of `executor.json`; it rises only if readers that ignore new fields would be misled."""


@dataclass(frozen=True)
class Fingerprint:
    """What a run's ranks are, and its steps.

    Attributes:
        world_size: number of ranks.
        inputs: whether the ranks are dealt inputs; then their number may grow.
        steps: one mapping per step: `step`, the qualified name of its type with the step's own name, and
            `parameters`, the string of each parameter that has a stable one.
    """

    world_size: int
    steps: tuple[Mapping[str, Any], ...]
    inputs: bool = False

    @classmethod
    def of(cls, steps: Sequence[Step], world_size: int, inputs: bool = False) -> Fingerprint:
        """Return the fingerprint of a pipeline that runs on `world_size` ranks."""
        return cls(world_size, tuple(describe_step(step) for step in steps), inputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        steps = [dict(step) for step in self.steps]
        return {"world_size": self.world_size, "steps": steps} | ({"inputs": True} if self.inputs else {})

    def has_same_ranks(self, earlier: Mapping[str, Any]) -> bool:
        """Return whether the ranks of a folder with the fingerprint `earlier` are the ranks of this one."""
        is_dealt = earlier.get("inputs", False) is True
        return is_dealt == self.inputs and (is_dealt or earlier.get("world_size") == self.world_size)

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """Return why a folder with the fingerprint `earlier` must not be continued; nothing if it may be."""
        found = []
        is_dealt = earlier.get("inputs", False) is True
        if self.inputs and not is_dealt:
            found.append(f"it was cut into {earlier.get('world_size')} ranks by number, now its ranks get inputs")
        elif is_dealt and not self.inputs:
            found.append("its ranks got inputs, now there are no inputs")
        elif not is_dealt and earlier.get("world_size") != self.world_size:
            found.append(f"it was cut into {earlier.get('world_size')} ranks, now into {self.world_size}")
        before = [redact(str(step.get("step"))) for step in earlier.get("steps") or ()]
        now = [step["step"] for step in self.steps]
        if "steps" in earlier and not (len(before) == len(now) and all(map(_is_same_step, before, now))):
            found.append(f"its steps were {before}, now {now}")
        return found

    def changed_parameters(self, earlier: Mapping[str, Any], ranks: Iterable[int]) -> list[str]:
        """Return a sentence for each step whose parameters differ from those in `earlier`, which `ranks` ran with."""
        sentences = []
        for index, (now, before) in enumerate(zip(self.steps, earlier.get("steps") or (), strict=False)):
            names = _changed(before.get("parameters") or {}, now["parameters"])
            if names and _is_same_step(before.get("step"), now["step"]):
                sentences.append(
                    f"step {index} ({now['step']}): parameters changed since an earlier run in this folder: "
                    f"{', '.join(names)}; ranks {format_ranks(ranks, _MAX_SHOWN_RANGES)} keep their old outputs"
                )
        return sentences


def stored_fingerprint(executor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint in the content of `executor.json`; of datatrove's, the world size alone.

    Raises:
        ValueError: it is damaged, or of a newer format.
    """
    if executor.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise ValueError("a format of another release")
    if "fingerprint" not in executor and "world_size" not in executor:
        return {}
    fingerprint = executor.get("fingerprint", {"world_size": executor.get("world_size"), "steps": None})
    if not (isinstance(fingerprint, dict) and is_integer(fingerprint.get("world_size"))):
        raise ValueError("no fingerprint")
    steps = fingerprint.get("steps")
    ranks = {"world_size": fingerprint["world_size"], "inputs": fingerprint.get("inputs", False) is True}
    if steps is None:
        return ranks
    if not (isinstance(steps, list) and all(map(_is_described_step, steps))):
        raise ValueError("no steps")
    return ranks | {"steps": steps}


@dataclass(frozen=True)
class OlderRanks:
    """Completed ranks that ran with other parameters, or after other runs of the parents, than the newest run.

    Attributes:
        steps: the steps of that run, as in a fingerprint.
        ranks: the ranks.
        parents: the generations of the parents at that run, by their folders.
    """

    steps: Sequence[Mapping[str, Any]]
    ranks: frozenset[int]
    parents: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        plain = {"ranks": format_ranks(sorted(self.ranks)), "steps": [dict(step) for step in self.steps]}
        return plain | ({"parents": dict(self.parents)} if self.parents else {})


def stored_older_ranks(executor: Mapping[str, Any], world_size: int) -> list[OlderRanks]:
    """Return what `executor.json` says of ranks that ran with other parameters than its fingerprint.

    Raises:
        ValueError: it is damaged.
    """
    entries = executor.get("older_ranks", [])
    if not (isinstance(entries, list) and all(map(_is_older_ranks, entries))):
        raise ValueError("no older ranks")
    return [
        OlderRanks(entry["steps"], frozenset(parse_ranks(entry["ranks"], world_size)), entry.get("parents", {}))
        for entry in entries
    ]


def _is_older_ranks(entry: object) -> bool:
    if not (isinstance(entry, dict) and isinstance(entry.get("ranks"), str)):
        return False
    steps, parents = entry.get("steps"), entry.get("parents", {})
    return isinstance(steps, list) and all(map(_is_described_step, steps)) and isinstance(parents, dict)


def _is_described_step(step: object) -> bool:
    if not (isinstance(step, dict) and isinstance(step.get("step"), str)):
        return False
    parameters = step.get("parameters", {})
    return isinstance(parameters, dict) and all(isinstance(string, str) for string in parameters.values())


def _is_same_step(before: object, now: object) -> bool:
    """Return whether two names mean the same step: a script is `__main__` to itself and has a name to importers."""
    one, other = sorted((redact(str(before)), redact(str(now))), key=lambda name: not name.startswith(f"{_MAIN}."))
    is_script = one.startswith(f"{_MAIN}.") and other.endswith(one.removeprefix(_MAIN))
    return _is_same_string(one, other) or is_script


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    # A parameter that only one side has may have lost or gained a stable string: a false alarm is worse than a miss.
    return [
        f"{name} ({_shorten(redact(before[name]))} -> {_shorten(now[name])})"
        for name in now
        if name in before and not _is_same_string(redact(before[name]), now[name])
    ]


def _is_same_string(before: str, now: str) -> bool:
    """Return whether two strings are the same as far as they are not hidden: releases may hide different parts."""
    return before == now or _fits(before, now) or _fits(now, before)


def _fits(pattern: str, string: str) -> bool:
    """Return whether `string` is `pattern` with anything in the places of `HIDDEN`."""
    first, *others = pattern.split(HIDDEN)
    if not others or not string.startswith(first):
        return False
    position = len(first)
    for part in others[:-1]:
        position = string.find(part, position) + len(part)
        if position < len(part):
            return False
    return string[position:].endswith(others[-1])


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
        return _stable_strings(_function_parameters(step.func) | _arguments(step))
    if hasattr(step, "__qualname__"):
        return _stable_strings(_function_parameters(step))
    attributes = {key: value for key, value in getattr(step, "__dict__", {}).items() if key != "stats"}
    return _stable_strings(_function_parameters(step) | attributes)


def _function_parameters(step: object) -> dict[str, Any]:
    functions = functions_by_value(step)
    return {CODE: code_digest(functions), **captured_values(functions)} if functions else {}


def _arguments(step: functools.partial[Any]) -> dict[str, Any]:
    """Return the arguments of a partial, by the names of the function's parameters as far as they are known."""
    try:
        names = list(inspect.signature(step.func).parameters)
    except (TypeError, ValueError):
        names = []
    names += [str(index) for index in range(len(names), len(step.args))]
    return dict(zip(names, step.args, strict=False)) | dict(step.keywords)


def _stable_strings(values: Mapping[str, Any]) -> dict[str, str]:
    values = {name: value for name, value in values.items() if not is_secret(name, value)}
    functions = {name: value for name, value in values.items() if isinstance(value, FunctionType)}
    strings = {redact(name): stable_string(value) for name, value in values.items() if name not in functions}
    strings |= {f"{name}, {CODE}": code_digest([each]) for name, each in functions.items() if is_pickled_by_value(each)}
    return {name: string for name, string in strings.items() if string is not None}


def stable_string(value: object) -> str | None:
    """Return the value's `repr` without secrets if it is the same in every process, else None."""
    if is_large(value):
        return None
    try:
        string = repr(without_secrets(_path_of_folder(value)))
        string = "" if len(string) > MAX_DESCRIBED_LENGTH else redact(string)
    except Exception:  # noqa: BLE001 - a repr may raise anything, and then there is no string
        return None
    return None if not string or _ADDRESS.search(string) or len(string) > _MAX_STABLE_LENGTH else string


def _path_of_folder(value: Any) -> Any:
    """Return the path of a folder on some filesystem, since its repr has an address; anything else as it is."""
    path = getattr(value, "path", None)
    return path if isinstance(path, str) and hasattr(value, "fs") else value
