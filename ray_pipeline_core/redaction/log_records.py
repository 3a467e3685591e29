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
        error = _without_secrets(error)
        record.exc_info = (type(error), error, error.__traceback__)
    return True


def _without_secrets(error: BaseException) -> BaseException:
    trace = trace_of(error)
    return error if trace == _format(error) else RedactedTraceback(f"\n{trace}")


def cause_to_show(error: BaseException) -> BaseException:
    """Return an error to raise another one from: itself, or if its messages have secrets, its traceback without them.

    Lines of source code alone, such as `connect(token=token)`, have no secrets.
    """
    messages = [line for each in _chain(error) for line in traceback.format_exception_only(each)]
    if all(redact(message) == message for message in messages):
        return error
    return RedactedTraceback(f"\n{trace_of(error)}")


def _chain(error: BaseException) -> list[BaseException]:
    """Return the errors that are in an error's traceback: itself, those of its group, and what caused them."""
    found: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in found:
            found[id(each)] = each
            members = getattr(each, "exceptions", ())  # of a group
            context = None if each.__suppress_context__ else each.__context__
            waiting += each.__cause__, context, *(members if isinstance(members, tuple) else ())
    return list(found.values())


def trace_of(error: BaseException) -> str:
    """Return the traceback of an error without secrets."""
    return redact(_format(error), _MAX_TRACE_LENGTH)


def _format(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()
