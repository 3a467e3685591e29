"""Addresses where no cluster answers, and a head that falls silent: none of these tests starts Ray."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.util
from ray.exceptions import OutOfDiskError

from ray_pipeline_core import ClusterError, ClusterUnreachableError, ConfigError
from ray_pipeline_core.ray_backend import cluster, connecting, connection, head, interruptible
from ray_pipeline_core.ray_backend.cluster import Cluster
from ray_pipeline_core.ray_backend.connecting import ConnectTimeoutError, ConnectWait
from ray_pipeline_core.ray_backend.head import HeadWatch, answers
from ray_pipeline_core.scheduling.run_limits import RunLimits, RunStopped, RunTimedOut
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[3]
SCRIPT = """
import logging, os, sys
from ray_pipeline_core import ClusterUnreachableError, RayPipelineExecutor, RunCancelledError, RunIncompleteError
from tests.support.steps import do_nothing

logging.basicConfig(format="%(message)s")
executor = RayPipelineExecutor([do_nothing], logging_dir=sys.argv[1], address=sys.argv[2])
executor.run_timeout = float(os.environ["RUN_TIMEOUT_S"]) if "RUN_TIMEOUT_S" in os.environ else None
try:
    executor.run()
except (ClusterUnreachableError, RunCancelledError, RunIncompleteError) as error:
    print(type(error).__name__, error, flush=True)
"""


@contextlib.contextmanager
def server(reply: bytes) -> Iterator[str]:
    """A server that accepts connections and sends `reply` to what it gets, and yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    if reply and connection.recv(100):
                        connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in kept:
            connection.close()


@pytest.fixture(params=["nobody", "silent"])
def dead_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where nobody listens, or where connections are accepted and nothing is said."""
    with server(b"") as address:
        if request.param == "silent":
            yield address
            return
    yield address


def start(folder: Path, address: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | variables,
    )


def test_sigterm_ends_the_wait_for_a_cluster_in_order(dead_address: str, tmp_path: Path) -> None:
    process = start(tmp_path, dead_address)
    try:
        wait_for((tmp_path / "executor.json").exists, "the start of the run")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "RunCancelledError" in output
    assert process.returncode == 0
    assert (tmp_path / "result.json").exists()
    assert not (tmp_path / "run.lock").exists()


def test_wait_for_a_cluster_has_a_limit(dead_address: str, tmp_path: Path) -> None:
    process = start(tmp_path, dead_address, RAY_PIPELINE_CONNECT_TIMEOUT_S="0.5")
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert f"ClusterUnreachableError no Ray cluster at address='{dead_address}': nothing answers there" in output
    assert (tmp_path / "result.json").exists()


def test_ray_is_not_called_where_nobody_answers(dead_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda **options: called.append(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests of this process may have connected it
    with pytest.raises(ClusterUnreachableError, match="nothing answers there"):
        Cluster(dead_address, timeout_s=0.2)
    assert called == [], "it would try for minutes, and no other run of the process could use Ray meanwhile"


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A connection to a cluster whose head does not answer any more."""
    monkeypatch.setattr(cluster, "_connect", lambda *arguments: None)
    monkeypatch.setattr(cluster, "_check_connected_to", lambda address: None)
    monkeypatch.setattr(cluster, "connection_id", lambda: "this one")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    with Cluster("127.0.0.1:1") as connected:
        yield connected


@pytest.mark.parametrize("now", ["", "another one"])
def test_connection_that_other_code_has_closed_is_noticed(
    now: str, connected: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected.check()
    monkeypatch.setattr(cluster, "connection_id", lambda: now)
    with pytest.raises(ClusterUnreachableError, match="was closed while the run used it"):
        connected.call(lambda: None)


def test_head_that_is_silent_for_too_long_ends_the_call_that_waits_for_it(connected: Cluster) -> None:
    gate = threading.Event()
    connected.check()
    connected._watch.silent_s = cluster.MAX_SILENCE_S + 1
    with pytest.raises(ClusterUnreachableError, match="has not answered for 15 s"):
        connected.call(gate.wait)


def test_wait_for_a_cluster_counts_for_the_time_limit_of_the_run(dead_address: str, tmp_path: Path) -> None:
    process = start(tmp_path, dead_address, RUN_TIMEOUT_S="0.5")
    try:
        output, _ = process.communicate(timeout=45)  # less than the limit of the wait
    finally:
        process.kill()
    assert "RunIncompleteError" in output
    (failure,) = json.loads((tmp_path / "result.json").read_text())["failed"]
    assert failure["kind"] == "timeout"
    assert failure["message"] == "the run's time limit of 0.5 s was over before this rank had completed"
    assert not (tmp_path / "run.lock").exists()


def test_wait_says_what_it_waits_for_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "SAY_AFTER_S", -1.0)
    wait = ConnectWait("the Ray cluster at nowhere (60 s at most)", lambda: None, 60)
    wait.check()
    wait.check()
    assert caplog.messages == ["waiting for the Ray cluster at nowhere (60 s at most)"]


def test_wait_ends_when_the_run_must_end_or_when_the_time_is_over() -> None:
    stop = threading.Event()
    limits = RunLimits(stop, None, 0.0)
    ConnectWait("a cluster", limits.check, None).check()
    with pytest.raises(ConnectTimeoutError):
        ConnectWait("a cluster", limits.check, -1.0).check()
    with pytest.raises(RunTimedOut):
        ConnectWait("a cluster", RunLimits(stop, 10.0, 0.0, lambda: 11.0).check, None).check()
    stop.set()
    with pytest.raises(RunStopped):
        ConnectWait("a cluster", limits.check, None).check()


def test_run_after_one_that_was_stopped_while_connecting_waits_for_the_end_of_that_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, close = threading.Event(), threading.Event()

    def connect(**options: Any) -> None:
        opened.set()
        time.sleep(0.5)

    def disconnect() -> None:
        close.wait(60)
        opened.clear()

    def stop() -> None:
        if opened.is_set():
            raise ConnectTimeoutError

    monkeypatch.setattr(connection, "_newest", None)
    monkeypatch.setattr(connection, "connection_id", lambda: "it" if opened.is_set() else "")
    monkeypatch.setattr(ray, "is_initialized", opened.is_set)
    monkeypatch.setattr(ray, "init", connect)
    monkeypatch.setattr(ray, "shutdown", disconnect)
    with pytest.raises(ConnectTimeoutError):
        connection.join("local", stop)

    joined = connection.join("local", close.set)
    assert joined is not None, "the dying connection is not one of other code"
    connection.leave(joined)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_limit_that_is_no_number_of_seconds_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connecting.TIMEOUT_VARIABLE, value)
    with pytest.raises(ConfigError, match=f"RAY_PIPELINE_CONNECT_TIMEOUT_S='{value}'"):
        connecting.connect_timeout_s()


def test_head_answers_if_a_server_says_something(dead_address: str) -> None:
    with server(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00") as address:
        assert answers(address, 5)
    assert not answers(dead_address, 0.1)
    assert not answers("no address", 0.1)


def test_head_with_tls_answers_if_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with server(b"") as address:
        assert answers(address, 0.1)
    assert not answers(address, 0.1)


def test_head_watch_counts_the_silence_until_the_next_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(head, "ASK_INTERVAL_S", 0.01)
    there = threading.Event()
    watch = HeadWatch("10.0.0.1:6379", ask=lambda address: there.is_set())
    try:
        wait_for(lambda: watch.silent_s > 0.1, "silence")
        there.set()
        wait_for(lambda: watch.silent_s == 0, "an answer")
    finally:
        watch.close()
    assert [message for message in caplog.messages if "10.0.0.1:6379 does not answer" in message]


@pytest.mark.parametrize(("later", "is_another"), [("b", True), ("a", False)])
def test_head_watch_tells_a_head_that_came_back_from_one_that_was_started_anew(
    later: str, is_another: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "ASK_INTERVAL_S", 0.01)
    state = {"there": True, "id": "a"}
    watch = HeadWatch("10.0.0.1:6379", lambda address: bool(state["there"]), lambda address: str(state["id"]))
    try:
        wait_for(lambda: watch._cluster_id, "the first answer")
        state.update(there=False, id="")
        wait_for(lambda: watch.silent_s > 0.1, "silence")
        state["there"] = True
        silent_s = watch.silent_s
        wait_for(lambda: watch.silent_s > silent_s, "that a head which does not know its cluster yet counts as silent")
        state["id"] = later
        wait_for(lambda: watch.silent_s == 0, "an answer")
        assert watch.is_another is is_another
    finally:
        watch.close()


def test_head_watch_knows_who_the_head_is_before_its_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ASK_INTERVAL_S", 0.01)
    ids, answered = iter(["a"]), iter([False])
    watch = HeadWatch("10.0.0.1:6379", lambda address: next(answered, True), lambda address: next(ids, "b"))
    try:
        wait_for(lambda: watch.is_another, "the other head")
    finally:
        watch.close()


def test_head_watch_goes_on_when_it_can_t_ask_who_the_head_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "ASK_INTERVAL_S", 0.01)
    there = {"there": True}

    def identify(address: str) -> str:
        raise FileNotFoundError("its certificate is just being replaced")

    watch = HeadWatch("10.0.0.1:6379", lambda address: there["there"], identify)
    try:
        for is_there in (False, True, False):
            there["there"] = is_there
            wait_for(lambda is_there=is_there: (watch.silent_s == 0) is is_there, "that the watch notices")  # type: ignore[misc]
    finally:
        watch.close()


def test_head_that_was_started_anew_ends_the_run(connected: Cluster) -> None:
    connected._watch.is_another = True
    assert not connected.is_connected
    with pytest.raises(
        ClusterUnreachableError, match=r"at 127\.0\.0\.1:1 was started anew while the run used it.*again"
    ):
        connected.check()


def test_call_that_ray_refuses_is_an_error_of_the_cluster_with_node_and_remedy(connected: Cluster) -> None:
    def refuse() -> None:
        raise OutOfDiskError("Local disk is full")

    with pytest.raises(ClusterError) as caught:
        connected.call(refuse)
    node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    assert str(caught.value) == (
        f"the run can't use the Ray cluster at 127.0.0.1:1: node {node} has no room for more objects, neither in its "
        "object store nor on its disk; free disk space there, and end what holds objects (`ray memory` lists it)"
    )


def test_call_that_hangs_is_given_up() -> None:
    gate = threading.Event()

    def give_up() -> None:
        raise ConnectTimeoutError

    with pytest.raises(ConnectTimeoutError):
        interruptible.call_interruptibly(gate.wait, give_up)
    gate.set()
    assert interruptible.call_interruptibly(lambda: 7, give_up) == 7
    with pytest.raises(TimeoutError, match="its own"):
        interruptible.call_interruptibly(_raise_timeout, lambda: None)


def _raise_timeout() -> None:
    raise TimeoutError("its own")


def test_embedded_cluster_that_cannot_start_advises_what_helps_there(tmp_path: Path) -> None:
    process = start(tmp_path, "local", RAY_TMPDIR="/proc/nowhere")
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "ClusterUnreachableError could not start a local Ray cluster" in output
    assert "check the free memory" in output
    assert "leave" not in output


@pytest.mark.parametrize("where", ["local", "10.0.0.1:6379", "ray://10.0.0.1:10001"])
def test_what_ray_says_of_a_failed_connection_is_one_line(where: str) -> None:
    error = RuntimeError("\x1b[31mThe node timed out.\x1b[0m\nThe last lines of its log:\n\traylet is full")
    message = str(connecting.connect_error(where, "address", error))
    assert ": RuntimeError: The node timed out. The last lines of its log: raylet is full; check" in message


NO_SERVER = ConnectionAbortedError("RuntimeError: Starting Ray client server failed. See ray_client_server_23000.err")


@pytest.mark.parametrize(
    ("errors", "timeout_s", "outcome"),
    [
        ([NO_SERVER, NO_SERVER], 60, "connected"),
        ([NO_SERVER], 1e-9, "Starting Ray client server failed"),
        ([ConnectionAbortedError("another one")], 60, "another one"),
    ],
    ids=["asked again", "until the time is over", "nothing else is"],
)
def test_server_of_a_client_is_asked_for_again_when_it_did_not_start(
    monkeypatch: pytest.MonkeyPatch, errors: list[Exception], timeout_s: float, outcome: str
) -> None:
    answers = iter([*errors, None])

    def join(where: str, check: object) -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "connected"

    monkeypatch.setattr(cluster, "join", join)
    try:
        found = str(cluster._connect("ray://127.0.0.1:1", lambda: None, timeout_s))
    except ConnectionAbortedError as error:
        found = str(error)
    assert outcome in found
