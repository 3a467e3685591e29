"""The lease on a run folder: one driver at a time, even if drivers die, are suspended or start at once."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ray_pipeline_core.errors import RunFolderAccessError, RunFolderLockedError
from ray_pipeline_core.storage import run_lock
from ray_pipeline_core.storage.call_retries import RetryLimits
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.lease_files import LeaseFiles
from ray_pipeline_core.storage.run_folder import RunFolder
from ray_pipeline_core.storage.run_lock import RunLock
from tests.support.clocks import ManualClock
from tests.support.faulty_proxy import FaultyProxy
from tests.support.waiting import wait_for

NEVER_S = 3600.0
RACERS = 8
ELSEWHERE = Holder(host="node-7", pid=4711, process_start="1234", machine="node-7/boot/pid:[1]")
OTHER = Holder(host="node-8", pid=4712, process_start="1235", machine="node-8/boot/pid:[1]")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


MakeLock = Callable[..., RunLock]


@pytest.fixture
def make_lock(clock: ManualClock) -> Iterator[MakeLock]:
    """A function that makes locks without a heartbeat, which are released after the test."""
    locks: list[RunLock] = []

    def make(folder: DataFolder, **options: Any) -> RunLock:
        locks.append(RunLock(folder, **{"clock": clock, "heartbeat_s": NEVER_S, **options}))
        return locks[-1]

    yield make
    for lock in locks:
        lock.release()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("run-lock")] == []


def is_given_back(folder: DataFolder) -> bool:
    """Return whether nothing is left but, after a take-over, the file of the last epoch."""
    left = [json.loads(folder.read_bytes(f"leases/{epoch}"))["released"] for epoch in epochs(folder)]
    return left in ([], [True]) and not folder.isfile("run.lock")


def epochs(folder: DataFolder) -> list[int]:
    """Return the epochs that have a file."""
    return sorted(map(int, folder.list_names("leases")))


def stored_lease(folder: DataFolder) -> dict[str, Any]:
    lease: dict[str, Any] = json.loads(folder.read_bytes("run.lock"))
    return lease


# --- one at a time --------------------------------------------------------------------------------------------------


def test_lease_says_who_runs_here(folder: DataFolder, make_lock: MakeLock, clock: ManualClock) -> None:
    with make_lock(folder):
        lease = stored_lease(folder)
        assert lease["pid"] == os.getpid()
        assert lease["host"]
        assert lease["id"]
        assert lease["process_start"]
        assert lease["since"] == "2023-11-14T22:13:20+00:00"
        assert lease["heartbeat"] == clock.now_s
    assert is_given_back(folder)


def test_held_lease_locks_others_out_naming_its_holder(folder: DataFolder, make_lock: MakeLock) -> None:
    lock = make_lock(folder, holder=ELSEWHERE)
    lock.acquire()
    with pytest.raises(RunFolderLockedError) as caught:
        make_lock(folder).acquire()
    for part in ("node-7", "4711", "2023-11-14T22:13:20+00:00", folder.url):
        assert part in str(caught.value)
    assert caught.value.retryable
    lock.check()
    assert epochs(folder) == []


def test_same_process_is_locked_out_as_well(folder: DataFolder, make_lock: MakeLock) -> None:
    lock = make_lock(folder)
    lock.acquire()
    for second in (lock, make_lock(folder)):
        with pytest.raises(RunFolderLockedError, match=f"pid {os.getpid()}"):
            second.acquire()
    lock.check()


def test_released_lease_can_be_taken_again(folder: DataFolder, make_lock: MakeLock) -> None:
    lock = make_lock(folder)
    for _ in range(2):
        lock.acquire()
        lock.check()
        lock.release()
        lock.release()
    with make_lock(folder) as other:
        lock.release()
        other.check()
        assert epochs(folder) == []


def test_lease_is_given_back_when_the_run_raises(folder: DataFolder, make_lock: MakeLock) -> None:
    with pytest.raises(KeyError), make_lock(folder):
        raise KeyError
    assert is_given_back(folder)


def test_check_raises_when_the_lease_was_never_taken(folder: DataFolder, make_lock: MakeLock) -> None:
    with pytest.raises(RunFolderLockedError, match="has not taken the lease"):
        make_lock(folder).check()


def test_acquire_raises_access_error_when_the_folder_cannot_be_written(tmp_path: Path, make_lock: MakeLock) -> None:
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(RunFolderAccessError, match="a file stands where"):
        make_lock(get_data_folder(tmp_path / "run")).acquire()


# --- races ----------------------------------------------------------------------------------------------------------


def compete(locks: list[RunLock]) -> list[RunLock]:
    """Acquire all locks at the same time, and return those that got the lease."""
    barrier = threading.Barrier(len(locks))

    def acquire(lock: RunLock) -> bool:
        barrier.wait(timeout=30)
        try:
            lock.acquire()
        except RunFolderLockedError:
            return False
        return True

    with ThreadPoolExecutor(len(locks)) as threads:
        outcomes = list(threads.map(acquire, locks))
    return [lock for lock, acquired in zip(locks, outcomes, strict=True) if acquired]


@pytest.fixture(params=["local", "s3"])
def shared_folder(request: pytest.FixtureRequest, tmp_path: Path) -> DataFolder:
    """A folder on storage that creates files exclusively."""
    folder: DataFolder = request.getfixturevalue("s3_folder") if request.param == "s3" else get_data_folder(tmp_path)
    return folder


def test_one_of_many_gets_a_free_lease(shared_folder: DataFolder, make_lock: MakeLock) -> None:
    for _ in range(3):
        winners = compete([make_lock(shared_folder) for _ in range(RACERS)])
        assert len(winners) == 1
        winners[0].check()
        winners[0].release()
        assert is_given_back(shared_folder)


def test_one_of_many_gets_a_stale_lease(shared_folder: DataFolder, make_lock: MakeLock, clock: ManualClock) -> None:
    for _ in range(3):
        shared_folder.write_bytes("run.lock", Lease.new(ELSEWHERE, clock.now_s - 61).to_bytes())
        winners = compete([make_lock(shared_folder) for _ in range(RACERS)])
        assert len(winners) == 1
        assert stored_lease(shared_folder)["pid"] == os.getpid()
        winners[0].check()
        winners[0].release()
        assert is_given_back(shared_folder)


@pytest.mark.parametrize("content", [Lease.new(ELSEWHERE, 939.0).to_bytes(), b""], ids=["0.1.0", "damaged"])
def test_one_of_two_gets_a_stale_lease_without_an_epoch(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has read the stale file before the first takes over, by a clock that is ahead."""
    folder = get_data_folder(tmp_path)
    folder.write_bytes("run.lock", content)
    os.utime(tmp_path / "run.lock", (939.0, 939.0))
    first, second = LeaseFiles(get_data_folder(tmp_path), lambda: 1000.0), LeaseFiles(folder, lambda: 1000.5)
    create, taken = folder.create_exclusive, list[Lease]()

    def create_later(path: str, data: bytes) -> None:
        if not taken:
            taken.append(first.acquire(Holder.current())[0])
        create(path, data)

    monkeypatch.setattr(folder, "create_exclusive", create_later)
    with pytest.raises(RunFolderLockedError):
        second.acquire(ELSEWHERE)
    assert first.renew(taken[0]) is not None


def _acquire_in_process(path: str, ready: Any, outcomes: Any, done: Any) -> None:
    lock = RunLock(get_data_folder(path))
    ready.wait(60)
    try:
        lock.acquire()
    except RunFolderLockedError:
        outcomes.put("locked")
    else:
        outcomes.put("acquired")
        done.wait(60)
        lock.release()


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_many_processes_gets_the_lease(stale: bool, tmp_path: Path) -> None:
    folder = get_data_folder(tmp_path)
    if stale:
        folder.write_bytes("run.lock", Lease.new(ELSEWHERE, time.time() - 61).to_bytes())
    context = multiprocessing.get_context("spawn")
    ready, outcomes, done = context.Barrier(RACERS), context.Queue(), context.Event()
    arguments = (str(tmp_path), ready, outcomes, done)
    processes = [context.Process(target=_acquire_in_process, args=arguments) for _ in range(RACERS)]
    for process in processes:
        process.start()
    try:
        found = sorted(outcomes.get(timeout=60) for _ in processes)
    finally:
        done.set()
        for process in processes:
            process.join(60)
    assert found == ["acquired"] + ["locked"] * (RACERS - 1)
    assert [process.exitcode for process in processes] == [0] * RACERS
    assert is_given_back(folder)


# --- stale leases ---------------------------------------------------------------------------------------------------


def test_lease_is_taken_over_once_it_is_stale(folder: DataFolder, make_lock: MakeLock, clock: ManualClock) -> None:
    make_lock(folder, holder=ELSEWHERE).acquire()
    clock.now_s += 60
    with pytest.raises(RunFolderLockedError, match="60 s ago"):
        make_lock(folder, holder=OTHER).acquire()
    clock.now_s += 1
    successor = make_lock(folder, holder=OTHER)
    successor.acquire()
    assert stored_lease(folder)["host"] == "node-8"
    successor.check()
    successor.release()
    assert is_given_back(folder)


CHILD = """
import sys
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_lock import RunLock
RunLock(get_data_folder(sys.argv[1])).acquire()
print("acquired", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holding_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process on this host that holds the lease on `tmp_path`."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "acquired\n"
        yield child
        child.kill()


def test_lease_of_a_living_process_is_respected(
    tmp_path: Path, holding_process: subprocess.Popen[str], make_lock: MakeLock
) -> None:
    with pytest.raises(RunFolderLockedError, match=f"pid {holding_process.pid}"):
        make_lock(get_data_folder(tmp_path), clock=time.time).acquire()


@pytest.mark.parametrize("reaped", [True, False])
def test_lease_of_a_killed_process_of_this_host_is_free_at_once(
    reaped: bool, tmp_path: Path, holding_process: subprocess.Popen[str], make_lock: MakeLock
) -> None:
    folder = get_data_folder(tmp_path)
    holding_process.send_signal(signal.SIGKILL)
    if reaped:
        holding_process.wait()
    else:
        os.waitid(os.P_PID, holding_process.pid, os.WEXITED | os.WNOWAIT)  # leaves a zombie
    with make_lock(folder, clock=time.time) as lock:
        lock.check()
        assert stored_lease(folder)["pid"] == os.getpid()


def test_process_that_reuses_the_id_is_not_taken_for_the_holder(folder: DataFolder, make_lock: MakeLock) -> None:
    former = replace(Holder.current(), process_start="17")
    make_lock(folder, holder=former).acquire()
    with make_lock(folder):
        assert stored_lease(folder)["process_start"] == Holder.current().process_start


def test_same_id_in_another_container_is_not_taken_for_gone(folder: DataFolder, make_lock: MakeLock) -> None:
    elsewhere = replace(Holder.current(), pid=2**22 + 1, machine="this-host/boot/pid:[2]")
    make_lock(folder, holder=elsewhere).acquire()
    with pytest.raises(RunFolderLockedError):
        make_lock(folder).acquire()


CUT_OFF = replace(Lease.new(ELSEWHERE, 0), id="x" * 32).to_bytes()[:50]
DAMAGED = [b"", b"{", b"null", b"[]", b'{"id": "x"}', b"\xff", CUT_OFF]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_lease_is_respected_until_it_is_stale(content: bytes, tmp_path: Path, make_lock: MakeLock) -> None:
    folder = get_data_folder(tmp_path)
    folder.write_bytes("run.lock", content)
    with pytest.raises(RunFolderLockedError, match=r"run\.lock is damaged"):
        make_lock(folder, clock=time.time).acquire()
    written_s = time.time() - 61
    os.utime(tmp_path / "run.lock", (written_s, written_s))
    with make_lock(folder, clock=time.time) as lock:
        lock.check()
        assert stored_lease(folder)["pid"] == os.getpid()
    assert is_given_back(folder)


def test_damaged_lease_is_judged_by_its_time_of_writing_on_s3(
    s3_folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    s3_folder.write_bytes("run.lock", b"{")
    clock.now_s = s3_folder.modified_s("run.lock") + 59
    with pytest.raises(RunFolderLockedError):
        make_lock(s3_folder).acquire()
    clock.now_s += 2
    with make_lock(s3_folder):
        assert stored_lease(s3_folder)["pid"] == os.getpid()
    assert is_given_back(s3_folder)


def test_successor_of_a_killed_successor_leaves_no_files(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    for number in range(3):
        LeaseFiles(folder, clock, 60).acquire(replace(ELSEWHERE, pid=number + 1))
        clock.now_s += 61
    with make_lock(folder) as lock:
        lock.check()
    assert is_given_back(folder)


# --- suspended holders ----------------------------------------------------------------------------------------------


def test_suspended_holder_notices_that_its_lease_took_over_stale_lease(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    suspended = make_lock(folder, holder=ELSEWHERE)
    suspended.acquire()
    clock.now_s += 61
    with make_lock(folder, holder=OTHER) as successor:
        for _ in range(2):
            with pytest.raises(RunFolderLockedError, match="lost its lease"):
                suspended.check()
        assert suspended.lost.is_set()
        suspended.release()
        assert stored_lease(folder)["host"] == "node-8"
        clock.now_s += 61
        successor.check()


def test_suspended_holder_notices_that_its_successor_came_and_went(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    suspended = make_lock(folder, holder=ELSEWHERE)
    suspended.acquire()
    clock.now_s += 61
    with make_lock(folder, holder=OTHER):
        pass
    with pytest.raises(RunFolderLockedError, match="lost its lease"):
        suspended.check()
    suspended.release()
    assert is_given_back(folder)


@pytest.mark.parametrize("ahead_s", [20.0, -20.0])
def test_holder_does_not_trust_a_lease_that_another_clock_finds_stale(
    ahead_s: float, tmp_path: Path, clock: ManualClock
) -> None:
    folder, other_clock = get_data_folder(tmp_path), ManualClock(clock.now_s + ahead_s)
    files, other_files = LeaseFiles(folder, clock, 60), LeaseFiles(folder, other_clock, 60)
    lease, _ = files.acquire(ELSEWHERE)
    taken: Lease | None = None
    while taken is None:
        clock.now_s += 1
        other_clock.now_s += 1
        with contextlib.suppress(RunFolderLockedError):
            taken, _ = other_files.acquire(OTHER)
    assert other_files.is_confirmed(taken)
    assert not files.is_confirmed(lease)


def test_suspended_holder_goes_on_when_nobody_took_over(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    lock = make_lock(folder)
    lock.acquire()
    for pause_s in (59, 1000):
        clock.now_s += pause_s
        lock.check()
    assert stored_lease(folder)["heartbeat"] == clock.now_s
    assert not lock.lost.is_set()


class SuspendingFolder(DataFolder):
    """A local folder whose driver is suspended once, right before a call of one kind.

    Attributes:
        suspend_before: the name of the method.
        meanwhile: what happens while it is suspended.
    """

    suspend_before = ""
    meanwhile: Callable[[], object]

    def with_retry_limits(self, retry_limits: RetryLimits) -> DataFolder:
        return self

    def write_bytes(self, path: str, data: bytes) -> None:
        self._suspend("write_bytes")
        super().write_bytes(path, data)

    def create_exclusive(self, path: str, data: bytes) -> None:
        self._suspend("create_exclusive")
        super().create_exclusive(path, data)

    def list_names(self, subdirectory: str, prefixes: Sequence[str] = ()) -> list[str]:
        self._suspend("list_names")
        return super().list_names(subdirectory, prefixes)

    def _suspend(self, method: str) -> None:
        if method == self.suspend_before:
            self.suspend_before = ""
            self.meanwhile()


def test_holder_suspended_before_a_heartbeat_steals_nothing(tmp_path: Path, clock: ManualClock) -> None:
    suspended_folder, folder = SuspendingFolder(str(tmp_path)), get_data_folder(tmp_path)
    suspended, others = LeaseFiles(suspended_folder, clock, 60), LeaseFiles(folder, clock, 60)
    lease, _ = suspended.acquire(ELSEWHERE)
    fresh: list[Lease] = []

    def come_and_go() -> None:
        clock.now_s += 61
        others.release(others.acquire(OTHER)[0])
        fresh.append(others.acquire(replace(OTHER, pid=17))[0])

    suspended_folder.suspend_before, suspended_folder.meanwhile = "write_bytes", come_and_go
    assert suspended.renew(lease) is None
    assert not others.is_replaced(fresh[0].id)
    renewed = others.renew(fresh[0])
    assert renewed is not None
    assert others.is_replaced(lease.id)
    with pytest.raises(RunFolderLockedError, match="pid 17"):
        others.acquire(ELSEWHERE)
    others.release(renewed)
    assert suspended.renew(lease) is None
    others.release(others.acquire(OTHER)[0])
    assert is_given_back(folder)
    assert len(epochs(folder)) == 1


def test_driver_that_knows_an_epoch_from_before_a_release_is_behind_those_after_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    suspended_folder, folder = SuspendingFolder(str(tmp_path)), get_data_folder(tmp_path)
    suspended, others = LeaseFiles(suspended_folder, clock, 60), LeaseFiles(folder, clock, 60)
    lease, _ = others.acquire(ELSEWHERE)
    clock.now_s += 61
    fresh: list[Lease] = []

    def wake() -> None:
        others.release(lease)
        fresh.append(others.acquire(OTHER)[0])

    suspended_folder.suspend_before, suspended_folder.meanwhile = "create_exclusive", wake
    with pytest.raises(RunFolderLockedError, match="node-8"):
        suspended.acquire(replace(OTHER, pid=17))
    assert not others.is_replaced(fresh[0].id)
    others.release(fresh[0])
    assert is_given_back(folder)
    assert epochs(folder) == []


@pytest.mark.parametrize("holder", ["beats", "gives back", "is replaced"])
def test_driver_suspended_before_a_take_over_finds_what_became_of_it(
    holder: str, tmp_path: Path, clock: ManualClock
) -> None:
    suspended_folder, folder = SuspendingFolder(str(tmp_path)), get_data_folder(tmp_path)
    suspended, others = LeaseFiles(suspended_folder, clock, 60), LeaseFiles(folder, clock, 60)
    lease, _ = others.acquire(ELSEWHERE)
    clock.now_s += 61
    renewed: list[Lease | None] = []

    def wake() -> None:
        if holder == "beats":
            renewed.append(others.renew(lease))
        else:
            others.release(lease)
        if holder == "is replaced":
            renewed.append(others.acquire(ELSEWHERE)[0])

    suspended_folder.suspend_before, suspended_folder.meanwhile = "create_exclusive", wake
    if holder == "gives back":
        suspended.acquire(OTHER)
        assert stored_lease(folder)["host"] == "node-8"
    else:
        with pytest.raises(RunFolderLockedError, match="node-7"):
            suspended.acquire(OTHER)
        assert renewed[0] is not None
        assert not others.is_replaced(renewed[0].id)


def test_what_a_driver_read_before_it_was_suspended_does_not_look_stale_afterwards(
    tmp_path: Path, clock: ManualClock
) -> None:
    suspended_folder, folder = SuspendingFolder(str(tmp_path)), get_data_folder(tmp_path)
    suspended, others = LeaseFiles(suspended_folder, clock, 60), LeaseFiles(folder, clock, 60)
    leases = [others.acquire(ELSEWHERE)[0]]

    def send_heartbeats() -> None:
        for _ in range(7):
            clock.now_s += 10
            renewed = others.renew(leases[-1])
            assert renewed is not None
            leases.append(renewed)

    suspended_folder.suspend_before, suspended_folder.meanwhile = "list_names", send_heartbeats
    with pytest.raises(RunFolderLockedError, match="node-7"):
        suspended.acquire(OTHER)
    assert not others.is_replaced(leases[-1].id)


class OverwritingFolder(SuspendingFolder):
    """A folder on a store whose creation looks for the file and then writes, like fsspec's generic one."""

    def create_exclusive(self, path: str, data: bytes) -> None:
        if self.isfile(path):
            raise FileExistsError(path)
        self._suspend("create_exclusive")
        self.write_bytes(path, data)


def test_driver_suspended_in_a_creation_that_is_not_exclusive_does_not_join_a_holder(
    tmp_path: Path, clock: ManualClock
) -> None:
    suspended_folder, folder = OverwritingFolder(str(tmp_path)), get_data_folder(tmp_path)
    suspended, others = LeaseFiles(suspended_folder, clock, 60), LeaseFiles(folder, clock, 60)
    others.acquire(ELSEWHERE)
    clock.now_s += 61
    held: list[Lease | None] = []

    def work_for_half_an_hour() -> None:
        held.append(others.acquire(OTHER)[0])
        for _ in range(180):
            clock.now_s += 10
            assert held[-1] is not None
            held.append(others.renew(held[-1]))

    suspended_folder.suspend_before, suspended_folder.meanwhile = "create_exclusive", work_for_half_an_hour
    with pytest.raises(RunFolderLockedError, match="too late"):
        suspended.acquire(replace(OTHER, pid=17))
    assert held[-1] is not None
    assert others.is_replaced(held[-1].id)
    others.release(others.acquire(ELSEWHERE)[0])


def test_holder_that_was_suspended_right_after_its_heartbeat_is_not_believed_blindly(
    tmp_path: Path, clock: ManualClock
) -> None:
    folder = SuspendingFolder(str(tmp_path))
    files = LeaseFiles(folder, clock, 60)
    lease, _ = files.acquire(ELSEWHERE)
    folder.suspend_before, folder.meanwhile = "write_bytes", lambda: clock.advance_to(clock.now_s + 61)
    renewed = files.renew(lease)
    assert renewed is not None
    assert (renewed.epoch, renewed.heartbeat) == (lease.epoch + 1, clock.now_s)


# --- damaged and forged files ---------------------------------------------------------------------------------------


def forged(**fields: object) -> bytes:
    """Return the content of a lease with other values."""
    return json.dumps(json.loads(Lease.new(ELSEWHERE, time.time()).to_bytes()) | fields).encode()


FORGED = [
    b"[" * 100_000,
    forged(pid=10**30),
    forged(pid=-1),
    forged(pid=True),
    forged(heartbeat=float("nan")),
    forged(heartbeat=float("inf")),
    forged(heartbeat=float("-inf")),
    forged(heartbeat=10**400),
    forged(heartbeat=time.time() + 3600),
    forged(heartbeat=None),
    forged(host="a\x1b[31m"),
    forged(id=["x"]),
    forged(epoch="../../x"),
    forged(epoch=10**15),
]


@pytest.mark.parametrize("content", FORGED, ids=range(len(FORGED)))
@pytest.mark.parametrize("path", ["run.lock", "leases/3"])
def test_impossible_values_lock_for_a_minute_after_the_file_was_written(
    content: bytes, path: str, tmp_path: Path, make_lock: MakeLock
) -> None:
    folder = get_data_folder(tmp_path)
    folder.write_bytes(path, content)
    with pytest.raises(RunFolderLockedError):
        make_lock(folder, clock=time.time).acquire()
    written_s = time.time() - 61
    os.utime(tmp_path / path, (written_s, written_s))
    with make_lock(folder, clock=time.time) as lock:
        lock.check()
        RunFolder(folder).check_lease(lock.lease_id)
    assert is_given_back(folder)


@pytest.mark.parametrize("content", [b"{", forged(heartbeat=time.time() + 3600)], ids=["damaged", "readable"])
@pytest.mark.parametrize("path", ["run.lock", "leases/3"])
def test_lease_that_was_written_while_the_clock_was_ahead_locks_nobody_out(
    content: bytes, path: str, tmp_path: Path, make_lock: MakeLock
) -> None:
    folder = get_data_folder(tmp_path)
    folder.write_bytes(path, content)
    written_s = time.time() + 3600
    os.utime(tmp_path / path, (written_s, written_s))
    with make_lock(folder, clock=time.time) as lock:
        lock.check()
    assert is_given_back(folder)


class TimelessFolder(DataFolder):
    """A folder on storage that does not report modification times."""

    def modified_s(self, path: str) -> float:
        return 0.0


def test_damaged_lease_on_storage_without_modification_times_locks_nobody_out(
    tmp_path: Path, make_lock: MakeLock
) -> None:
    folder = TimelessFolder(str(tmp_path))
    folder.write_bytes("run.lock", b"{")
    with make_lock(folder) as lock:
        lock.check()


def test_forged_lease_removes_nothing_outside_the_folder(tmp_path: Path, make_lock: MakeLock) -> None:
    (tmp_path / "outside").write_text("precious")
    folder = get_data_folder(tmp_path / "run")
    names = ["../outside", "/../outside", "../../outside"]
    for name in names:
        stale = forged(id=name, heartbeat=0.0, supersedes=names)
        folder.write_bytes("run.lock", stale)
        with make_lock(folder):
            pass
    assert (tmp_path / "outside").read_text() == "precious"


@pytest.mark.parametrize("name", ["007", "-1", "0", "x", "1e3", "\u0663", "9" * 15, "9" * 40])
def test_files_that_are_no_epochs_are_ignored(name: str, tmp_path: Path, make_lock: MakeLock) -> None:
    folder = get_data_folder(tmp_path)
    folder.write_bytes(f"leases/{name}", Lease.new(ELSEWHERE, time.time()).to_bytes())
    with make_lock(folder, clock=time.time) as lock:
        lock.check()
    assert (tmp_path / "leases" / name).exists()


# --- leases of release 0.1.0 ----------------------------------------------------------------------------------------


def lease_of_earlier_release(heartbeat_s: float) -> bytes:
    """Return what `run.lock` has when a driver of release 0.1.0 holds it."""
    fields = json.loads(Lease.new(ELSEWHERE, heartbeat_s).to_bytes()) | {"supersedes": []}
    return json.dumps({name: fields[name] for name in fields if name not in ("epoch", "released", "is_first")}).encode()


def test_lease_of_an_earlier_release_is_respected_until_it_is_stale(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    folder.write_bytes("run.lock", lease_of_earlier_release(clock.now_s))
    clock.now_s += 60
    with pytest.raises(RunFolderLockedError, match="node-7, pid 4711"):
        make_lock(folder).acquire()
    clock.now_s += 1
    with make_lock(folder) as lock:
        assert lock.took_over_stale_lease
        assert stored_lease(folder)["id"] == lock.lease_id
    assert is_given_back(folder)


# --- workers --------------------------------------------------------------------------------------------------------


def test_worker_sees_that_its_run_lost_the_lease(folder: DataFolder, make_lock: MakeLock, clock: ManualClock) -> None:
    workers_folder = RunFolder(folder)
    suspended = make_lock(folder, holder=ELSEWHERE)
    suspended.acquire()
    lease_id = suspended.lease_id
    workers_folder.check_lease(lease_id)
    clock.now_s += 61
    with make_lock(folder, holder=OTHER) as successor:
        folder.write_bytes("run.lock", Lease.new(ELSEWHERE, clock.now_s).to_bytes())  # a copy that came late
        workers_folder.check_lease(successor.lease_id)
        with pytest.raises(RunFolderLockedError, match="no longer has the lease"):
            workers_folder.check_lease(lease_id)
    for ended in (lease_id, successor.lease_id or "x"):
        with pytest.raises(RunFolderLockedError, match="no longer has the lease"):
            workers_folder.check_lease(ended)


# --- the heartbeat --------------------------------------------------------------------------------------------------


def test_heartbeat_renews_the_lease(folder: DataFolder, make_lock: MakeLock, clock: ManualClock) -> None:
    with make_lock(folder, heartbeat_s=0.01) as lock:
        for _ in range(3):
            clock.now_s += 30
            wait_for(lambda: stored_lease(folder)["heartbeat"] == clock.now_s, "the heartbeat")
        assert stored_lease(folder)["since"] == "2023-11-14T22:13:20+00:00"
        lock.check()


@pytest.mark.parametrize("loss", ["removed", "taken over"])
def test_heartbeat_notices_that_the_lease_is_lost(
    loss: str, folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    lock = make_lock(folder, heartbeat_s=0.01)
    lock.acquire()
    if loss == "removed":
        folder.remove_many(["run.lock"])
    else:
        folder.write_bytes(f"leases/{stored_lease(folder)['epoch'] + 1}", Lease.new(OTHER, clock.now_s).to_bytes())
    wait_for(lock.lost.is_set, "the loss of the lease")
    with pytest.raises(RunFolderLockedError, match="lost its lease"):
        lock.check()
    lock.release()


def test_heartbeat_survives_trouble_with_the_storage(
    faulty_folder: DataFolder,
    proxy: FaultyProxy,
    make_lock: MakeLock,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with make_lock(faulty_folder, heartbeat_s=0.05) as lock:
        proxy.always = "access_denied"
        wait_for(lambda: "No heartbeat for the lease" in caplog.text, "the warning")
        clock.now_s += 61
        with pytest.raises(RunFolderAccessError):
            lock.check()
        proxy.always = None
        wait_for(lambda: stored_lease(faulty_folder)["heartbeat"] == clock.now_s, "the heartbeat")
        lock.check()
        assert not lock.lost.is_set()
    assert is_given_back(faulty_folder)


def test_check_trusts_a_lease_that_nobody_may_take_over_yet(
    faulty_folder: DataFolder, proxy: FaultyProxy, make_lock: MakeLock, clock: ManualClock
) -> None:
    with make_lock(faulty_folder) as lock:
        proxy.always = "access_denied"
        clock.now_s += 59
        lock.check()
        clock.now_s += 2
        with pytest.raises(RunFolderAccessError):
            lock.check()
        proxy.always = None


def test_lost_answers_do_not_lose_the_lease(
    faulty_folder: DataFolder, proxy: FaultyProxy, make_lock: MakeLock, clock: ManualClock
) -> None:
    proxy.fail_next("lose_answer")
    first = make_lock(faulty_folder, holder=ELSEWHERE)
    first.acquire()
    clock.now_s += 61
    proxy.fail_next("lose_answer", 8)
    with make_lock(faulty_folder, holder=OTHER) as second:
        second.check()
        assert stored_lease(faulty_folder)["host"] == "node-8"
    assert is_given_back(faulty_folder)


def test_release_does_not_wait_for_storage_that_hangs(
    faulty_folder: DataFolder, proxy: FaultyProxy, make_lock: MakeLock, caplog: pytest.LogCaptureFixture
) -> None:
    lock = make_lock(faulty_folder)
    lock.acquire()
    hanging = threading.Event()
    proxy.hang = hanging
    try:
        lock.release()
    finally:
        hanging.set()
    assert "is not given back" in caplog.text


def test_child_of_a_fork_leaves_the_lease_to_its_parent(tmp_path: Path) -> None:
    script = """
import os, sys
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.run_lock import RunLock
with RunLock(get_data_folder(sys.argv[1])):
    child = os.fork()
    if child == 0:
        sys.exit(0)
    print(os.waitpid(child, 0)[1], os.path.exists(sys.argv[1] + "/run.lock"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "0 True\n"
    assert is_given_back(get_data_folder(tmp_path))


def test_holder_survives_pickling_and_is_not_gone_while_it_runs() -> None:
    holder = pickle.loads(pickle.dumps(Holder.current()))
    assert holder == Holder.current()
    assert not holder.is_gone()
    assert not ELSEWHERE.is_gone()


# --- leases that can't be given back --------------------------------------------------------------------------------


class HangingFolder(DataFolder):
    """A folder whose removals hang while `hanging` is set."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.hanging = threading.Event()
        self.answers = threading.Event()

    def with_retry_limits(self, retry_limits: RetryLimits) -> DataFolder:
        return self

    def remove_many(self, paths: Sequence[str]) -> None:
        if self.hanging.is_set():
            self.answers.wait(60)
        super().remove_many(paths)


def test_process_is_not_kept_out_by_a_lease_that_it_could_not_give_back(
    tmp_path: Path, make_lock: MakeLock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_RELEASE_TIMEOUT_S", 0.1)
    hanging = HangingFolder(str(tmp_path))
    lock = make_lock(hanging)
    lock.acquire()
    hanging.hanging.set()
    lock.release()
    assert "is not given back yet" in caplog.text
    with make_lock(get_data_folder(tmp_path)) as successor:
        assert not successor.took_over_stale_lease
        hanging.answers.set()
        wait_for(lambda: "run-lock-heartbeat" not in waiting_threads(successor), "the end of the release")
        RunFolder(hanging).check_lease(successor.lease_id)


def waiting_threads(lock: RunLock) -> list[str]:
    """Return the names of the heartbeat threads of all locks but this one."""
    return [thread.name for thread in threading.enumerate() if thread is not lock._thread]


def test_lease_is_given_back_once_the_storage_answers(
    tmp_path: Path, make_lock: MakeLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_RELEASE_TIMEOUT_S", 0.1)
    hanging = HangingFolder(str(tmp_path))
    lock = make_lock(hanging, holder=ELSEWHERE)
    lock.acquire()
    hanging.hanging.set()
    lock.release()
    with pytest.raises(RunFolderLockedError, match="node-7"):
        make_lock(get_data_folder(tmp_path)).acquire()
    hanging.answers.set()
    wait_for(lambda: is_given_back(hanging), "the release")


def test_lease_of_a_failed_attempt_to_acquire_keeps_nobody_out(
    faulty_folder: DataFolder, proxy: FaultyProxy, make_lock: MakeLock
) -> None:
    proxy.refuse_uploads = "run.lock"
    with pytest.raises(RunFolderAccessError):
        make_lock(faulty_folder).acquire()
    proxy.refuse_uploads = None
    with make_lock(faulty_folder) as lock:
        lock.check()


def test_lease_whose_file_was_created_before_acquiring_it_failed_keeps_nobody_out(
    tmp_path: Path, make_lock: MakeLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(files: LeaseFiles, lease: Lease) -> bool:
        raise RunFolderAccessError("the storage does not answer")

    folder = get_data_folder(tmp_path)
    with monkeypatch.context() as failing:
        failing.setattr(LeaseFiles, "_is_newest", fail)
        with pytest.raises(RunFolderAccessError):
            make_lock(folder).acquire()
    assert folder.isfile("run.lock")
    with make_lock(folder) as lock:
        lock.check()


def test_heartbeat_is_one_call_and_does_not_depend_on_the_look_before_it(
    tmp_path: Path, make_lock: MakeLock, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: DataFolder, *arguments: object) -> Any:
        raise RunFolderAccessError("the storage does not answer")

    with make_lock(get_data_folder(tmp_path)) as lock, monkeypatch.context() as failing:
        for call in ("read_bytes", "read_many", "list_names", "modified_s", "create_exclusive", "remove_many"):
            failing.setattr(DataFolder, call, fail)
        clock.now_s += 10
        lock._send_heartbeat()
        failing.undo()
        assert stored_lease(get_data_folder(tmp_path))["heartbeat"] == clock.now_s


class SlowMemory(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem in memory, without asynchronous calls, of which every fifth call hangs."""

    protocol = "slow"
    cachable = False
    calls = itertools.count(1)
    hung: ClassVar[list[str]] = []

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._hang(path)
        super().pipe_file(path, value, mode, **options)

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> bytes:
        self._hang(path)
        content: bytes = super().cat_file(path, *arguments, **options)
        return content

    def ls(self, path: str, *arguments: Any, **options: Any) -> list[Any]:
        self._hang(path)
        found: list[Any] = super().ls(path, *arguments, **options)
        return found

    def _hang(self, path: str) -> None:
        if next(self.calls) % 5 == 0:
            self.hung.append(path)
            threading.Event().wait(60)


def test_heartbeat_is_sent_in_time_though_every_fifth_call_hangs(
    tmp_path: Path, make_lock: MakeLock, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_CALL_TIMEOUT_S", 0.05)
    limits = RetryLimits(first_wait_s=0.01, call_timeout_s=0.05)
    folder = DataFolder(f"{tmp_path}/run", SlowMemory(), retry_limits=limits)
    with make_lock(folder) as lock:
        for _ in range(4):
            clock.now_s += 10
            lock._send_heartbeat()
            assert lock._lease is not None
            assert lock._lease.heartbeat == clock.now_s
    assert len(SlowMemory.hung) > 2
