"""The lease on a run folder: one driver at a time, even if drivers die, are suspended or start at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core.errors import RunFolderAccessError, RunFolderLockedError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.data_folder_spec import get_data_folder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.lease_file import LeaseFile
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


def lease_files(folder: DataFolder) -> list[str]:
    return sorted(name for name in folder.list_names("") if name.startswith("run.lock"))


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
    assert lease_files(folder) == []


def test_held_lease_locks_others_out_naming_its_holder(folder: DataFolder, make_lock: MakeLock) -> None:
    lock = make_lock(folder, holder=ELSEWHERE)
    lock.acquire()
    with pytest.raises(RunFolderLockedError) as caught:
        make_lock(folder).acquire()
    for part in ("node-7", "4711", "2023-11-14T22:13:20+00:00", folder.url):
        assert part in str(caught.value)
    assert caught.value.retryable
    lock.check()
    assert lease_files(folder) == ["run.lock"]


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
        assert lease_files(folder) == ["run.lock"]


def test_lease_is_given_back_when_the_run_raises(folder: DataFolder, make_lock: MakeLock) -> None:
    with pytest.raises(KeyError), make_lock(folder):
        raise KeyError
    assert lease_files(folder) == []


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
        assert lease_files(shared_folder) == []


def test_one_of_many_gets_a_stale_lease(shared_folder: DataFolder, make_lock: MakeLock, clock: ManualClock) -> None:
    for _ in range(3):
        shared_folder.write_bytes("run.lock", Lease.new(ELSEWHERE, clock.now_s - 61).to_bytes())
        winners = compete([make_lock(shared_folder) for _ in range(RACERS)])
        assert len(winners) == 1
        assert stored_lease(shared_folder)["pid"] == os.getpid()
        winners[0].check()
        winners[0].release()
        assert lease_files(shared_folder) == []


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
    assert lease_files(folder) == []


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
    assert lease_files(folder) == []


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


DAMAGED = [b"", b"{", b"null", b"[]", b'{"id": "x"}', b"\xff", Lease.new(ELSEWHERE, 0).to_bytes()[:50]]


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
    assert lease_files(folder) == []


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
    assert lease_files(s3_folder) == []


def test_successor_that_died_before_writing_is_succeeded(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    stale = Lease.new(ELSEWHERE, clock.now_s - 200)
    died = Lease.new(OTHER, clock.now_s - 100, supersedes=(stale.id,))
    folder.write_bytes("run.lock", stale.to_bytes())
    folder.write_bytes(f"run.lock.{stale.id}", died.to_bytes())
    winners = compete([make_lock(folder) for _ in range(RACERS)]) if folder.is_local() else []
    if not winners:
        winners = [make_lock(folder)]
        winners[0].acquire()
    assert len(winners) == 1
    assert stored_lease(folder)["pid"] == os.getpid()
    winners[0].release()
    assert lease_files(folder) == []


def test_living_claim_on_a_stale_lease_is_respected(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    stale = Lease.new(ELSEWHERE, clock.now_s - 200)
    folder.write_bytes("run.lock", stale.to_bytes())
    folder.write_bytes(f"run.lock.{stale.id}", Lease.new(OTHER, clock.now_s - 5).to_bytes())
    with pytest.raises(RunFolderLockedError, match="node-8"):
        make_lock(folder).acquire()


def test_successor_of_a_killed_successor_leaves_no_claims(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    for number in range(3):
        LeaseFile(folder, clock, 60).acquire(replace(ELSEWHERE, pid=number + 1))
        clock.now_s += 61
    with make_lock(folder) as lock:
        lock.check()
    assert lease_files(folder) == []


# --- suspended holders ----------------------------------------------------------------------------------------------


def test_suspended_holder_notices_that_its_lease_took_over_stale_lease(
    folder: DataFolder, make_lock: MakeLock, clock: ManualClock
) -> None:
    told: list[str] = []
    suspended = make_lock(folder, holder=ELSEWHERE, on_lost=lambda: told.append("lost"))
    suspended.acquire()
    clock.now_s += 61
    with make_lock(folder, holder=OTHER) as successor:
        for _ in range(2):
            with pytest.raises(RunFolderLockedError, match="lost its lease"):
                suspended.check()
        assert suspended.lost.is_set()
        assert told == ["lost"]
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
    assert lease_files(folder) == []


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


def test_former_holder_that_writes_late_gives_way(folder: DataFolder, clock: ManualClock) -> None:
    file = LeaseFile(folder, clock, 60)
    former = file.acquire(ELSEWHERE)
    clock.now_s += 61
    successor = file.acquire(OTHER)
    # The former holder has read the lease just before it was suspended, and writes when it is resumed.
    folder.write_bytes("run.lock", former.renewed(clock.now_s).to_bytes())
    assert file.renew(former) is None
    file.release(former)
    renewed = file.renew(successor)
    assert renewed is not None
    assert stored_lease(folder)["id"] == successor.id
    file.release(renewed)
    assert lease_files(folder) == []


class WakingFolder(DataFolder):
    """A local folder whose stale holder is resumed just when its lease is claimed."""

    wake: Callable[[], object]

    def create_exclusive(self, path: str, data: bytes) -> None:
        super().create_exclusive(path, data)
        if path.startswith("run.lock."):
            self.wake()


@pytest.mark.parametrize("waking", ["beats", "gives back"])
def test_successor_withdraws_when_the_holder_wakes_meanwhile(waking: str, tmp_path: Path, clock: ManualClock) -> None:
    folder = WakingFolder(str(tmp_path))
    holder_lease = LeaseFile(folder, clock, 60).acquire(ELSEWHERE)
    clock.now_s += 61

    def wake() -> None:
        # It has looked for claims before there was one.
        if waking == "beats":
            folder.write_bytes("run.lock", holder_lease.renewed(clock.now_s).to_bytes())
        else:
            folder.remove_many(["run.lock"])

    folder.wake = wake
    if waking == "beats":
        with pytest.raises(RunFolderLockedError, match="node-7"):
            LeaseFile(folder, clock, 60).acquire(OTHER)
        assert stored_lease(folder)["host"] == "node-7"
    else:
        LeaseFile(folder, clock, 60).acquire(OTHER)
        assert stored_lease(folder)["host"] == "node-8"
    assert lease_files(folder) == ["run.lock"]


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
    told: list[str] = []
    lock = make_lock(folder, heartbeat_s=0.01, on_lost=lambda: told.append(threading.current_thread().name))
    lock.acquire()
    if loss == "removed":
        folder.remove_many(["run.lock"])
    else:
        folder.write_bytes("run.lock", Lease.new(OTHER, clock.now_s).to_bytes())
    wait_for(lambda: told, "the loss of the lease")
    assert told == ["run-lock-heartbeat"]
    with pytest.raises(RunFolderLockedError, match="lost its lease"):
        lock.check()
    lock.release()
    assert lease_files(folder) == ([] if loss == "removed" else ["run.lock"])


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
    assert lease_files(faulty_folder) == []


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
    assert lease_files(faulty_folder) == []


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
    assert lease_files(get_data_folder(tmp_path)) == []


def test_holder_survives_pickling_and_is_not_gone_while_it_runs() -> None:
    holder = pickle.loads(pickle.dumps(Holder.current()))
    assert holder == Holder.current()
    assert not holder.is_gone()
    assert not ELSEWHERE.is_gone()
