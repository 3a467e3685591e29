"""What tells a job from others: its id, its number, and what it runs."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from ray_pipeline_core.errors import ConfigError
from ray_pipeline_core.executor import RayPipelineExecutor, topological_order
from ray_pipeline_core.fingerprint import Fingerprint, stable_string
from ray_pipeline_core.redaction import redact, without_secrets

FINGERPRINT = "fingerprint"
"""The name in a job's metadata of what its executor is known by."""
NONCE = "nonce"
"""The name in a job's metadata of the number by which records in its log are known."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")


def new_submission_id() -> str:
    """Return an id that no job has."""
    return f"ray-pipeline-{secrets.token_hex(8)}"


def new_nonce() -> str:
    """Return a number that nothing else prints."""
    return secrets.token_hex(8)


def checked_id(submission_id: object) -> str:
    """Return a submission id.

    Raises:
        ConfigError: it can't be one.
    """
    if not (isinstance(submission_id, str) and _ID.fullmatch(submission_id)):
        raise ConfigError(
            f"submission_id={submission_id!r}: must be letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return submission_id


def job_metadata(executor: RayPipelineExecutor, given: Mapping[str, str] | None) -> dict[str, str]:
    """Return the metadata of a new job: what was given, and what it is known by.

    Raises:
        ConfigError: what was given is no dict of strings.
    """
    texts: list[Any] = [text for pair in (given or {}).items() for text in pair]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError("metadata: must be a dict of strings by name, or None")
    own = {"ray_pipeline": "core", FINGERPRINT: fingerprint(executor), "run_folder": executor.logging_dir.url}
    return {**own, **{name: redact(text) for name, text in (given or {}).items()}, NONCE: new_nonce()}


def fingerprint(executor: RayPipelineExecutor) -> str:
    """Return what an executor and all that it depends on are known by, the same in each process."""
    described = [_described(node) for node in topological_order(executor)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _described(node: RayPipelineExecutor) -> dict[str, Any]:
    steps = () if isinstance(node.pipeline, str) else node.pipeline
    return {
        "pipeline": node.pipeline if isinstance(node.pipeline, str) else None,
        "steps": Fingerprint.of(steps, node.tasks, node.source is not None).to_dict(),
        "arguments": stable_string(without_secrets(dict(node.pipeline_kwargs or {}))),
        "run_folder": None if node.has_default_folder else node.logging_dir.url,
        "parent_folders": [folder.url for folder in node.parent_folders],
    }
