"""Hides the secrets in what ray-pipeline logs, and in the causes of the errors that it raises."""

from __future__ import annotations

import logging
import traceback

from ray_pipeline_core.redaction.texts import redact

_MAX_TRACE_LENGTH = 1_000_000


class RedactedTraceback(Exception):
    """The traceback of an error whose text has a secret, without that secret; it takes the error's place as a cause."""


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, whose records have no secrets, in tracebacks neither."""
    logger = logging.getLogger(name)
    logger.addFilter(_redact_record)
    return logger


def _redact_record(record: logging.LogRecord) -> bool:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - the `repr` of a user's object may raise anything
        message = f"{record.msg} (its arguments can't be shown)"
    record.msg, record.args = redact(message), None
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        error = cause_to_show(error)
        record.exc_info = (type(error), error, error.__traceback__)
    return True


def cause_to_show(error: BaseException) -> BaseException:
    """Return an error to raise another one from: itself, or if its traceback has secrets, one that shows it without."""
    trace = trace_of(error)
    return error if trace == _format(error) else RedactedTraceback(f"\n{trace}")


def trace_of(error: BaseException) -> str:
    """Return the traceback of an error without secrets."""
    return redact(_format(error), _MAX_TRACE_LENGTH)


def _format(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()
