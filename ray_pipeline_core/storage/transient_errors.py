"""Which storage errors are transient.

Exceptions of filesystem libraries are recognised by type name, HTTP status and error code, so that none of the
libraries has to be imported or installed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServerBusy",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    }
)
_TRANSIENT_STATUSES = frozenset({408, 425, 429})
_PERMANENT_SERVER_STATUSES = frozenset({501, 505, 507, 511})
_TRANSIENT_NAMES = frozenset(
    {
        "ChunkedEncodingError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "MetadataRetrievalError",
        "ProtocolError",
        "ResponseParserError",
        "ServiceRequestError",
        "ServiceResponseError",
        "Timeout",
        "TimeoutError",
        "TransportError",
        "gaierror",
    }
)
_TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ETIMEDOUT,
        getattr(errno, "EREMOTEIO", errno.ETIMEDOUT),
    }
)
_PERMANENT_TYPES = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
CREDENTIAL_CODES = frozenset(
    {
        "CredentialsNotSupported",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
CREDENTIAL_NAMES = frozenset(
    {
        "ClientAuthenticationError",
        "DefaultCredentialsError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
        "UnauthorizedSSOTokenError",
    }
)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its chain of `__cause__`s."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def error_code(error: BaseException) -> str | None:
    """Return the storage service's error code, such as "NoSuchBucket", or None."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return (response.get("Error") or {}).get("Code")
    code = getattr(error, "error_code", None)
    return code if isinstance(code, str) else None


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status of the error, or None."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        candidates = [(response.get("ResponseMetadata") or {}).get("HTTPStatusCode")]
    else:
        candidates = [getattr(error, name, None) for name in ("status_code", "status", "code")]
        candidates.append(getattr(response, "status_code", None))
    return next((status for status in candidates if isinstance(status, int) and 100 <= status < 600), None)


def type_names(error: BaseException) -> set[str]:
    """Return the names of the error's type and of its base classes."""
    return {base.__name__ for base in type(error).__mro__}


def _is_transient_status(status: int) -> bool:
    return status in _TRANSIENT_STATUSES or (status >= 500 and status not in _PERMANENT_SERVER_STATUSES)


def _classify(error: BaseException) -> bool | None:
    """Return whether one error of a chain of causes is transient, or None if that is unknown."""
    if isinstance(error, _PERMANENT_TYPES) or "CERTIFICATE_VERIFY_FAILED" in str(error):
        return False
    if error_code(error) in _TRANSIENT_CODES:
        return True
    status = http_status(error)
    if status is not None:
        return _is_transient_status(status)
    names = type_names(error)
    if names & CREDENTIAL_NAMES:
        return False
    if names & _TRANSIENT_NAMES or getattr(error, "errno", None) in _TRANSIENT_ERRNOS:
        return True
    return None


def is_transient(error: BaseException) -> bool:
    """Return whether a call that failed with `error` may succeed when retried.

    Server errors, throttling, dropped connections and timeouts are transient; errors that are not recognised are not.
    """
    results = (_classify(cause) for cause in causes(error))
    return next((transient for transient in results if transient is not None), False)
