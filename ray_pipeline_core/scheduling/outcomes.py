"""How the attempts of ranks end, as values that travel from the workers to the driver."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ray_pipeline_core.failure_kinds import FAILURE_RULES, FailureKind, FailureRule
from ray_pipeline_core.redaction import redact, redact_url

STORE_TIMEOUT = "StoreTimeout"
"""The error type of an attempt whose files could not be stored, since the storage did not answer."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""The codes that colour a terminal; Ray puts them into its errors, also into those that a step passes on."""


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """Why an attempt failed.

    Attributes:
        kind: what the retry policy and the user see.
        error_type: qualified name of the exception, or of Ray's error; secrets in it are hidden.
        message: one sentence; secrets in it are hidden, and colours are left out.
        error_names: the names, bare and qualified, of the exception's type and its bases.
        preempted: the node was taken away with notice, so none of the ordinary retries is charged.
        retry_limit: the most retries for this failure, where fewer make sense than the policy allows.
        fatal: no rank of this run could do better, so the run should end.
        node_died: the worker's node died with it.
        node: where it happened, if known.
        log: full path of the attempt's log, if there is one.
        input: key of the input that the rank was at work on, if it is known.
    """

    kind: FailureKind
    error_type: str
    message: str
    error_names: frozenset[str] = frozenset()
    preempted: bool = False
    retry_limit: int | None = None
    fatal: bool = False
    node_died: bool = False
    node: str | None = None
    log: str | None = None
    input: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "error_type", redact(self.error_type))
        object.__setattr__(self, "message", redact(COLOURS.sub("", self.message)))
        object.__setattr__(self, "input", redact_url(self.input) if self.input else None)

    @property
    def rule(self) -> FailureRule:
        """What a failure of this kind costs and does."""
        return FAILURE_RULES[self.kind]


def time_limit_failure(limit_s: float | None, node: str | None = None, log: str | None = None) -> AttemptFailure:
    """Return why a rank failed whose group ran for longer than `limit_s` seconds."""
    return AttemptFailure("timeout", "TimeoutError", f"ran over its time limit of {limit_s} s", node=node, log=log)


@dataclass(frozen=True)
class RankOutcome:
    """How one attempt of a rank ended on a worker.

    Attributes:
        rank: the rank.
        seconds: how long it took, in seconds.
        failure: why it failed; None when the rank completed.
        stats: the rank's stats, in the form of its stats file; None on failure and on a gang's other nodes.
        node: where it ran.
        stats_bytes: the size of the rank's stats file, in bytes.
    """

    rank: int
    seconds: float
    failure: AttemptFailure | None = None
    stats: list[dict[str, Any]] | None = field(default=None, repr=False)
    node: str | None = None
    stats_bytes: int = 0
