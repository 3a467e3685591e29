"""Storage errors: which are retried, for how long, and the message if that does not help."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import fsspec
import pytest
import requests
from botocore import exceptions as boto
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from ray_pipeline_core.errors import RunFolderAccessError
from ray_pipeline_core.redaction import redact_url
from ray_pipeline_core.storage.call_retries import RetryLimits, call_with_retries
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.error_translation import access_error
from ray_pipeline_core.storage.transient_errors import is_transient
from tests.support.faulty_proxy import Fault, FaultyProxy
from tests.support.storage import s3_options

SHORT = RetryLimits(total_s=0.1, first_wait_s=0.01, max_wait_s=0.02)
TRANSIENT_FAULTS: list[Fault] = [
    "cut_upload",
    "drop",
    "internal_error",
    "lose_answer",
    "slow_down",
    "timeout",
    "unavailable",
]


def from_s3(code: str, status: int) -> Exception:
    """Return the error that s3fs raises when S3 answers with this code and status."""
    response = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: Exception = translate_boto_error(boto.ClientError(response, "PutObject"))
    return error


def from_requests(status: int) -> Exception:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("a storage error", response=response)


class FromGoogle(Exception):
    """What gcsfs raises carries the status as `code`."""

    def __init__(self, code: int) -> None:
        super().__init__("a storage error")
        self.code = code


TRANSIENT: list[Exception] = [
    from_s3("SlowDown", 503),
    from_s3("ServiceUnavailable", 503),
    from_s3("InternalError", 500),
    from_s3("RequestTimeout", 400),
    from_s3("IncompleteBody", 400),
    from_s3("ConditionalRequestConflict", 409),
    from_s3("BadGateway", 502),
    from_s3("TooManyRequests", 429),
    boto.EndpointConnectionError(endpoint_url="http://localhost"),
    boto.ConnectTimeoutError(endpoint_url="http://localhost"),
    boto.ReadTimeoutError(endpoint_url="http://localhost"),
    boto.ConnectionClosedError(endpoint_url="http://localhost"),
    boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    boto.ResponseStreamingError(error="cut"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError(),
    requests.ConnectionError(),
    requests.Timeout(),
    from_requests(503),
    FromGoogle(503),
    FromGoogle(429),
    FSTimeoutError(),
    asyncio.TimeoutError(),
    TimeoutError(),
    ConnectionResetError(),
    BrokenPipeError(),
    OSError(errno.ENETUNREACH, "a storage error"),
    socket.gaierror(socket.EAI_AGAIN, "a storage error"),
]
PERMANENT: list[Exception] = [
    from_s3("AccessDenied", 403),
    from_s3("403", 403),
    from_s3("NoSuchBucket", 404),
    from_s3("NoSuchKey", 404),
    from_s3("InvalidAccessKeyId", 403),
    from_s3("ExpiredToken", 400),
    from_s3("SignatureDoesNotMatch", 403),
    from_s3("InvalidBucketName", 400),
    from_s3("NotImplemented", 501),
    boto.NoCredentialsError(),
    boto.ParamValidationError(report="bad bucket name"),
    boto.SSLError(endpoint_url="https://localhost", error="CERTIFICATE_VERIFY_FAILED"),
    ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED"),
    from_requests(401),
    FromGoogle(403),
    PermissionError(errno.EACCES, "a storage error"),
    OSError(errno.EROFS, "a storage error"),
    OSError(errno.ENOSPC, "a storage error"),
    NotADirectoryError(errno.ENOTDIR, "a storage error"),
    FileNotFoundError(errno.ENOENT, "a storage error"),
    FileExistsError(errno.EEXIST, "a storage error"),
    TypeError("a storage error"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_error_that_may_pass_is_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_error_that_stays_is_not_transient(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (from_s3("NoSuchBucket", 404), "there is no such bucket"),
        (from_s3("AccessDenied", 403), "access is denied"),
        (from_s3("ExpiredToken", 400), "credentials are missing or not valid"),
        (boto.NoCredentialsError(), "credentials are missing or not valid"),
        (PermissionError(errno.EACCES, "a storage error"), "access is denied"),
        (OSError(errno.EROFS, "a storage error"), "read-only"),
        (OSError(errno.EDQUOT, "a storage error"), "full"),
        (NotADirectoryError(errno.ENOTDIR, "a storage error"), "a file stands where"),
        (from_s3("SlowDown", 503), "did not answer properly"),
        (ValueError("a storage error"), "the storage refused"),
    ],
    ids=repr,
)
def test_message_says_what_where_why_and_what_to_do(error: Exception, words: str) -> None:
    message = str(access_error("write", "s3://bucket/run/a", error))
    assert message.startswith("Can't write s3://bucket/run/a: ")
    assert words in message
    assert type(error).__name__ in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("ftp://user:hush@host:21/run", "ftp://host:21/run"),
        ("sftp://user@host/run", "sftp://user@host/run"),
        ("https://token@host/run?sig=hush#x", "https://host/run"),
        ("http://u:hush@host/a?b=c", "http://host/a"),
        ("http://host:8080/run@home", "http://host:8080/run@home"),
        ("s3://bucket/user@home/what?", "s3://bucket/user@home/what?"),
        ("/data/a:b@c", "/data/a:b@c"),
    ],
)
def test_url_of_a_file_is_shown_without_credentials_and_with_everything_else(text: str, redacted: str) -> None:
    assert redact_url(text) == redacted


CALLS: dict[str, Callable[[DataFolder], Any]] = {
    "write": lambda folder: folder.write_bytes("new", b"x" * 100_000),
    "read": lambda folder: folder.read_bytes("a"),
    "read many": lambda folder: folder.read_many(["a", "b"]),
    "remove": lambda folder: folder.remove_many(["a"]),
    "list names": lambda folder: folder.list_names(""),
    "list sizes by prefix": lambda folder: folder.list_sizes("", ["a", "b"]),
    "list files": lambda folder: folder.list_files(),
    "move": lambda folder: folder.move("a", "c"),
    "isfile": lambda folder: folder.isfile("a"),
}


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        *(("write", fault) for fault in TRANSIENT_FAULTS),
        *((call, fault) for call in CALLS if call != "write" for fault in ("drop", "unavailable")),
    ],
)
def test_call_succeeds_after_transient_faults(
    call: str, fault: Fault, faulty_folder: DataFolder, proxy: FaultyProxy
) -> None:
    for name in ("a", "b"):
        faulty_folder.write_bytes(name, name.encode())
    undisturbed = DataFolder(faulty_folder.path, faulty_folder.fs)
    proxy.requests.clear()
    proxy.fail_next(fault, 3)
    answer = CALLS[call](faulty_folder)
    assert len(proxy.requests) >= 4
    expected = {
        "write": None,
        "read": b"a",
        "read many": {"a": b"a", "b": b"b"},
        "remove": None,
        "move": None,
        "isfile": True,
    }
    if call in expected:
        assert answer == expected[call]
    else:
        assert sorted(answer) == ["a", "b"]
    left = {"write": ["a", "b", "new"], "remove": ["b"], "move": ["b", "c"]}
    assert sorted(undisturbed.list_names("")) == left.get(call, ["a", "b"])


def test_answer_that_got_lost_makes_creation_find_its_own_file(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    proxy.fail_next("lose_answer")
    with pytest.raises(FileExistsError):
        faulty_folder.create_exclusive("run.lock", b"mine")
    assert faulty_folder.read_bytes("run.lock") == b"mine"


def test_upload_that_is_cut_leaves_the_old_object(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    faulty_folder.write_bytes("stats.json", b"old")
    proxy.always = "cut_upload"
    with pytest.raises(RunFolderAccessError, match="did not answer properly"):
        faulty_folder.with_retry_limits(SHORT).write_bytes("stats.json", b"x" * 1_000_000)
    proxy.always = None
    assert faulty_folder.read_bytes("stats.json") == b"old"


@pytest.mark.parametrize("call", CALLS)
def test_call_gives_up_when_the_fault_stays(call: str, faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    for name in ("a", "b"):
        faulty_folder.write_bytes(name, name.encode())
    proxy.always = "unavailable"
    with pytest.raises(RunFolderAccessError, match="did not answer properly") as caught:
        CALLS[call](faulty_folder.with_retry_limits(SHORT))
    assert caught.value.retryable
    assert faulty_folder.url in str(caught.value)


def test_call_gives_up_when_nothing_listens(s3_bucket: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        fs = fsspec.filesystem("s3", **s3_options(endpoint))
        fs.retries = 1
        folder = DataFolder(f"{s3_bucket}/run", fs, retry_limits=SHORT)
        with pytest.raises(RunFolderAccessError, match="did not answer properly"):
            folder.write_bytes("a", b"x")


def test_read_many_asks_again_only_for_what_failed(faulty_folder: DataFolder, proxy: FaultyProxy) -> None:
    paths = [f"stats/{rank:05d}.json" for rank in range(20)]
    for path in paths:
        faulty_folder.write_bytes(path, b"{}")
    proxy.requests.clear()
    proxy.fail_next("unavailable", 4)
    found = faulty_folder.read_many([*paths, "stats/missing"])
    assert isinstance(found.pop("stats/missing"), FileNotFoundError)
    assert found == dict.fromkeys(paths, b"{}")
    assert len(proxy.requests) == 21 + 4


def test_waits_grow_up_to_their_bound_with_jitter() -> None:
    waits: list[float] = []

    def fail() -> None:
        if len(waits) < 12:
            raise ConnectionResetError

    call_with_retries(fail, RetryLimits(first_wait_s=0.5, max_wait_s=10.0, sleep=waits.append))
    assert len(waits) == 12
    for number, wait_s in enumerate(waits):
        shortest_s = min(0.5 * 2**number, 10.0)
        assert shortest_s <= wait_s <= shortest_s + 0.5
    assert len({wait_s % 0.5 for wait_s in waits}) > 1


def test_retries_end_when_their_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now_s[0] += seconds

    def fail() -> None:
        raise ConnectionResetError

    # tenacity reads this clock; the real one would make the test last a minute.
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    with pytest.raises(ConnectionResetError):
        call_with_retries(fail, RetryLimits(sleep=sleep))
    assert 60 <= sum(waits) <= 71


def test_permanent_error_is_not_retried() -> None:
    tries: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise PermissionError

    with pytest.raises(PermissionError):
        call_with_retries(fail, RetryLimits())
    assert len(tries) == 1


def test_default_bound_is_a_minute() -> None:
    assert get_data_folder("memory://run").retry_limits == RetryLimits(total_s=60.0)
