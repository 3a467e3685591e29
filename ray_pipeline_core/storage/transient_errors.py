"""Which storage errors may pass by themselves.

Filesystem libraries are recognised by the names, HTTP statuses and error codes that their exceptions carry,
so that none of them has to be imported or installed.
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
    """Yields the error, then what it was raised from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def error_code(error: BaseException) -> str | None:
    """Returns the storage service's own name for the error, if it has one."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return (response.get("Error") or {}).get("Code")
    code = getattr(error, "error_code", None)
    return code if isinstance(code, str) else None


def http_status(error: BaseException) -> int | None:
    """Returns the HTTP status that the error reports, if any."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        candidates = [(response.get("ResponseMetadata") or {}).get("HTTPStatusCode")]
    else:
        candidates = [getattr(error, name, None) for name in ("status_code", "status", "code")]
        candidates.append(getattr(response, "status_code", None))
    return next((status for status in candidates if isinstance(status, int) and 100 <= status < 600), None)


def type_names(error: BaseException) -> set[str]:
    """Returns the names of the error's type and of all it derives from."""
    return {ancestor.__name__ for ancestor in type(error).__mro__}


def _is_transient_status(status: int) -> bool:
    return status in _TRANSIENT_STATUSES or (status >= 500 and status not in _PERMANENT_SERVER_STATUSES)


def _classify(error: BaseException) -> bool | None:
    """Tells whether this link of a chain of causes is transient, or None when it doesn't say."""
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
    """Tells whether a call that failed with `error` may succeed when made again.

    Server errors, throttling, dropped connections and time-outs may; what is not recognised may not.
    """
    verdicts = (_classify(link) for link in causes(error))
    return next((kill_reason for kill_reason in verdicts if kill_reason is not None), False)
