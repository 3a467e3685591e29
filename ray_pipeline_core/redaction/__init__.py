"""What is secret in names, values and texts, and how it is kept out of files, logs and messages."""

from __future__ import annotations

from ray_pipeline_core.redaction.known import HIDDEN, hide_secrets, known_secrets
from ray_pipeline_core.redaction.log_records import cause_to_show, get_logger, trace_of
from ray_pipeline_core.redaction.names import is_secret, is_secret_name
from ray_pipeline_core.redaction.texts import redact, redact_url
from ray_pipeline_core.redaction.values import MAX_DESCRIBED_LENGTH, is_large, shown, without_secrets

__all__ = [
    "HIDDEN",
    "MAX_DESCRIBED_LENGTH",
    "cause_to_show",
    "get_logger",
    "hide_secrets",
    "is_large",
    "is_secret",
    "is_secret_name",
    "known_secrets",
    "redact",
    "redact_url",
    "shown",
    "trace_of",
    "without_secrets",
]
