"""Translation of storage errors into `RunFolderAccessError`, with cause and advice."""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from ray_pipeline_core.errors import RunFolderAccessError, RunFolderError
from ray_pipeline_core.redaction import cause_to_show, redact, redact_url
from ray_pipeline_core.storage.transient_errors import (
    CREDENTIAL_CODES,
    CREDENTIAL_NAMES,
    causes,
    error_code,
    http_status,
    is_transient,
    type_names,
)

_MAX_CAUSE_CHARACTERS = 300


class _Diagnosis(NamedTuple):
    applies: Callable[[BaseException], bool]
    problem: str
    advice: str


def _has_errno(*numbers: int) -> Callable[[BaseException], bool]:
    return lambda error: getattr(error, "errno", None) in numbers


_DIAGNOSES = (
    _Diagnosis(
        lambda error: error_code(error) in CREDENTIAL_CODES or bool(type_names(error) & CREDENTIAL_NAMES),
        "the credentials are missing or not valid",
        "Pass valid ones as (url, storage_options), or set them in the environment of the driver and of every node.",
    ),
    _Diagnosis(
        lambda error: error_code(error) == "NoSuchBucket",
        "there is no such bucket",
        "Create it, or correct its name.",
    ),
    _Diagnosis(
        lambda error: isinstance(error, PermissionError) or http_status(error) in (401, 403),
        "access is denied",
        "Grant permission to list, read, write and delete, or choose another folder.",
    ),
    _Diagnosis(_has_errno(errno.EROFS), "the filesystem is read-only", "Choose another folder, or mount it writable."),
    _Diagnosis(
        _has_errno(errno.ENOSPC, errno.EDQUOT),
        "the storage is full",
        "Free some space, then start the run again; completed ranks are skipped.",
    ),
    _Diagnosis(
        lambda error: isinstance(error, (FileExistsError, IsADirectoryError, NotADirectoryError)),
        "a file stands where a folder is needed, or a folder where a file is needed",
        "Move it away, or choose another folder.",
    ),
    _Diagnosis(
        is_transient,
        "the storage did not answer properly, despite retries",
        "Start the run again once it is available; completed ranks are skipped.",
    ),
    _Diagnosis(
        lambda error: isinstance(error, FileNotFoundError),
        "the folder or bucket is missing",
        "Create it, or correct its name.",
    ),
)
_UNKNOWN = _Diagnosis(lambda error: True, "the storage refused the request", "Check the URL and the storage options.")


def _diagnose(error: BaseException) -> _Diagnosis:
    chain = tuple(causes(error))
    found = (diagnosis for diagnosis in _DIAGNOSES if any(diagnosis.applies(cause) for cause in chain))
    return next(found, _UNKNOWN)


def access_error(action: str, where: str, error: BaseException) -> RunFolderAccessError:
    """Return the `RunFolderAccessError` for a storage error.

    Args:
        action: what was tried, as a verb.
        where: path or URL of the file or folder.
        error: the storage error.
    """
    diagnosis = _diagnose(error)
    cause = redact(f"{type(error).__name__}: {error}", _MAX_CAUSE_CHARACTERS)
    return RunFolderAccessError(
        f"Can't {action} {redact_url(where)}: {diagnosis.problem} ({cause}). {diagnosis.advice}"
    )


def is_expected_answer(action: str, error: BaseException) -> bool:
    """Return whether a storage error is a result of `action` that callers handle, not a failure."""
    if isinstance(error, FileExistsError):
        return action == "create"
    if isinstance(error, FileNotFoundError):
        no_bucket = any(error_code(cause) == "NoSuchBucket" for cause in causes(error))
        return not no_bucket and action not in ("create", "write", "append to")
    return False


class StorageErrors:
    """Context manager that translates storage errors into `RunFolderAccessError`.

    `FileNotFoundError` of a read, listing, removal or move and `FileExistsError` of a creation pass through, because
    callers handle them. `RunFolderError` and anything that is not an `Exception` pass through as well.
    """

    __slots__ = ("_action", "_where")

    def __init__(self, action: str, where: str) -> None:
        self._action = action
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, RunFolderError):
            return
        if not is_expected_answer(self._action, error):
            raise access_error(self._action, self._where, error) from cause_to_show(error)
