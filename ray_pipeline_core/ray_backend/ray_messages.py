"""What is said about an error of Ray: the reason, the node and what to do, in one paragraph.

Ray says more: first the traceback of its own code, then ids, the state of its object store, and what may help in
general. What differs from worker to worker is left out, so that ranks that failed for the same reason are one group.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from ray.exceptions import RuntimeEnvSetupError

from ray_pipeline_core.redaction import redact
from ray_pipeline_core.scheduling.outcomes import COLOURS

OUT_OF_MEMORY = re.compile("running low on memory")
"""What Ray says of a worker that its memory monitor has killed, whatever the type of the error."""
NODE_DIED = re.compile("its node has died")
"""What Ray says of a worker that has died with its node."""

_MAX_REASON_LENGTH = 800
_NODE = re.compile(r"(?:\[Node |\(IP: |\tip: |\(pid=\d+, ip=)([\w.:]+)")
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|ray::\S+\(\) \(pid=")  # Python's, and Ray's own
_MODULE = re.compile(r"^(\w+\.)+(?=\w+: )")  # of the type at the beginning of an exception's line
_OUTPUT = re.compile(r"^Last \d+ lines of stdout")  # in Ray's message about a command that failed
_OUTPUT_LINES = 3
_TELLING = re.compile(r"\berror\b|\bcause\b|\bbecause\b|×|╰", re.IGNORECASE)
_ABOUT_THE_ACTOR = re.compile(r"^The actor died unexpectedly before|^\t(?:class_name|actor_id|pid|name|namespace|ip):")
_PROCESS_DIED = re.compile(r"The actor is dead because its worker process has died\. .*?Worker exit detail: ")
_NODE_DIED = re.compile(r"The actor died because its node has died\. Node Id: \w+ (?:the actor's node was )?")


class _Symptom(NamedTuple):
    """What is said of errors that have a pattern in their text.

    Attributes:
        pattern: the pattern.
        problem: what the node did, after its name.
        advice: what to do.
    """

    pattern: re.Pattern[str]
    problem: str
    advice: str


# The first match counts.
_SYMPTOMS = (
    _Symptom(
        OUT_OF_MEMORY,
        "was running low on memory, so Ray has killed the worker",
        "free memory there, or let fewer workers share a node with a higher mem_per_cpu_gb",
    ),
    _Symptom(
        re.compile("local disk's utilization is over capacity"),
        "has no room for more objects, neither in its object store nor on its disk",
        "free disk space there, and end what holds objects (`ray memory` lists it)",
    ),
    _Symptom(
        re.compile("object store is full"),
        "has no room for more objects in its object store",
        "end what holds objects there (`ray memory` lists it), or start the node with a larger --object-store-memory",
    ),
    _Symptom(
        re.compile(r"The actor \w+ is unavailable"),
        "does not answer, so the worker there counts as lost",
        "check its network, and whether its process raylet runs",
    ),
    _Symptom(
        re.compile("Worker unexpectedly exits with a connection error"),
        "has lost the worker's process, which was killed or has crashed",
        "look into its log, and for a process that the system has killed into `dmesg` there",
    ),
)


_ADVICE = {
    "No space left on device": "free disk space there",
    "its node has died": "check that machine, or start another node",
}


class Description(NamedTuple):
    """What is said of an error of Ray.

    Attributes:
        message: the reason, the node and what to do, without line breaks, colours and secrets.
        node: the address of the node, if known.
    """

    message: str
    node: str | None


def describe(error: BaseException, node: str | None = None) -> Description:
    """Return what to say of an error.

    Args:
        error: an exception of Ray.
        node: where it happened, if Ray does not say.
    """
    text = COLOURS.sub("", str(error))
    found = _NODE.search(text)
    where = node if found is None else found[1]
    symptom = next((symptom for symptom in _SYMPTOMS if symptom.pattern.search(text)), None)
    if symptom is not None:
        message = f"{f'node {where}' if where else 'a node'} {symptom.problem}; {symptom.advice}"
    else:
        message = _own_words(error, text, where)
    return Description(message, where)


def reason_of(error: BaseException) -> str:
    """Return the text of an error without line breaks, tracebacks, colours and secrets; its type if it is empty."""
    return _shortened(COLOURS.sub("", str(error))) or type(error).__name__


def _own_words(error: BaseException, text: str, where: str | None) -> str:
    is_preempted = bool(getattr(error, "preempted", False))
    reason = _shortened(text) or ("the worker's node was drained" if is_preempted else type(error).__name__)
    advice = next((advice for hint, advice in _ADVICE.items() if hint in text), "")
    if isinstance(error, RuntimeEnvSetupError):
        reason = f"runtime_env can't be set up{f' on node {where}' if where else ''}: {reason}"
        advice = advice or "correct runtime_env, or provide what it needs there"
    elif where and where not in reason:
        reason = f"{reason} (node {where})"
    return f"{reason}; {advice}" if advice else reason


def _shortened(text: str) -> str:
    """Return the last exception of a text, or all of it, without what is about the actor alone."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    shown = (line.strip() for line in _without_tracebacks(lines) if not _ABOUT_THE_ACTOR.search(line))
    reason = _PROCESS_DIED.sub("the worker's process has died: ", " ".join(shown))
    reason = _NODE_DIED.sub("the worker's node was ", reason).removesuffix(".")
    return redact(reason, _MAX_REASON_LENGTH)


def _without_tracebacks(lines: Sequence[str]) -> list[str]:
    """Return the lines of the last exception of a message; of a command that failed, how its output ends."""
    starts = [index for index, line in enumerate(lines) if _TRACEBACK.search(line)]
    if not starts:
        return list(lines)
    after = list(itertools.dropwhile(lambda line: line.startswith(" "), lines[starts[-1] + 1 :]))
    after[:1] = [_MODULE.sub("", line) for line in after[:1]]
    output = next((index for index, line in enumerate(after) if _OUTPUT.search(line)), len(after))
    return after[:output] + ["Its output ends:", *_telling(after[output + 1 :])][: None if output < len(after) else 0]


def _telling(output: Sequence[str]) -> Sequence[str]:
    """Return the last lines of a command's output that tell of an error, or its last lines."""
    return [line for line in output if _TELLING.search(line)][-_OUTPUT_LINES:] or output[-_OUTPUT_LINES:]
