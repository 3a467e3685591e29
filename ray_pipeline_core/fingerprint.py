"""What a pipeline looks like from outside, so that a run folder is not continued with another one."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline_core.pipeline import Step, step_name

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+|object at |<locals>.<lambda>")
_SECRET = re.compile(r"passw|secret|token|credential|api_?key|access_?key|private|auth", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")
_LONGEST_TEXT = 500
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
        if "steps" in earlier and before != now:
            found.append(f"its steps were {before}, now {now}")
        return found

    def changed_parameters(self, earlier: Mapping[str, Any]) -> list[str]:
        """A sentence for each step whose parameters differ from those in `earlier`."""
        sentences = []
        for index, (now, before) in enumerate(zip(self.steps, earlier.get("steps") or (), strict=False)):
            names = _changed(before.get("parameters") or {}, now["parameters"])
            if names and before.get("step") == now["step"]:
                sentences.append(
                    f"step {index} ({now['step']}): parameters changed since the earlier run of this folder: "
                    f"{', '.join(names)}; ranks completed then keep their old outputs"
                )
        return sentences


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
    return f"{kind} ({step_name(step)})" if hasattr(step, "stats") else kind


def _parameters(step: Step) -> dict[str, str]:
    if not callable(step):
        return _stable_texts({"items": len(step)})
    if isinstance(step, functools.partial):
        return _stable_texts({str(index): value for index, value in enumerate(step.args)} | dict(step.keywords))
    if hasattr(step, "__qualname__"):
        return {}
    return _stable_texts({key: value for key, value in vars(step).items() if key != "stats"} if _has_vars(step) else {})


def _has_vars(step: object) -> bool:
    return hasattr(step, "__dict__")


def _stable_texts(values: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: stable_text(value) for name, value in values.items() if not is_secret(name)}
    return {name: text for name, text in texts.items() if text is not None}


def is_secret(name: str) -> bool:
    """Whether a value of this name must not be written anywhere."""
    return _SECRET.search(name) is not None


def without_secrets(value: object) -> Any:
    """A copy of nested containers in which no secret is left, and sets have an order."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if is_secret(str(key)) else without_secrets(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return _URL_PASSWORD.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value


def stable_text(value: object) -> str | None:
    """The value's text if it is the same in every process, else None."""
    try:
        text = repr(without_secrets(value))
    except Exception:  # noqa: BLE001 - a repr may raise anything, and then there is no text
        return None
    return None if _ADDRESS.search(text) or len(text) > _LONGEST_TEXT else text
