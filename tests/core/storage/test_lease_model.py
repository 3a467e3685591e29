"""The lease, with three drivers that are suspended before any storage call, resumed in any order, or killed."""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ray_pipeline_core.errors import RunFolderLockedError
from ray_pipeline_core.storage.data_folder import DataFolder
from ray_pipeline_core.storage.lease import Holder, Lease
from ray_pipeline_core.storage.lease_files import LeaseFiles
from tests.support.clocks import ManualClock

STALE_S = 60.0
ALL = 1000
DRIVERS = st.integers(0, 2)
CALLS = st.sampled_from([ALL, ALL, ALL, 0, 1, 2, 3])


class Killed(BaseException):
    """Ends the thread of a driver that was killed."""


class SteppedFolder(DataFolder):
    """A folder in memory that calls `before_call` before each call to the storage."""

    before_call: Callable[[], None]

    def with_retry_limits(self, retry_limits: Any) -> DataFolder:
        return self

    def list_names(self, subdirectory: str, prefixes: Sequence[str] = ()) -> list[str]:
        self.before_call()
        return super().list_names(subdirectory, prefixes)

    def read_bytes(self, path: str, **kwargs: Any) -> bytes:
        self.before_call()
        return super().read_bytes(path, **kwargs)

    def modified_s(self, path: str) -> float:
        self.before_call()
        return super().modified_s(path)

    def write_bytes(self, path: str, data: bytes) -> None:
        self.before_call()
        super().write_bytes(path, data)

    def create_exclusive(self, path: str, data: bytes) -> None:
        self.before_call()
        super().create_exclusive(path, data)

    def remove_many(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.before_call()
            super().remove_many([path])


class Driver:
    """A driver whose operations on the lease run in a thread, one storage call at a time.

    Attributes:
        lease: the lease that it takes for its own; None if it has none.
        is_busy: whether it is suspended in the middle of an operation.
        was_late: whether its lease has been doubtful since it was last confirmed.
        stolen: whether it lost a lease that had never been doubtful.
        refused: whether its last attempt to acquire the lease was refused.
    """

    def __init__(self, number: int, path: str, clock: ManualClock, on_acquired: Callable[[Lease], None]) -> None:
        folder = SteppedFolder(path, MemoryFileSystem())
        folder.before_call = self._suspend
        self.lease: Lease | None = None
        self.is_busy = self.was_late = self.stolen = self.refused = False
        self._holder = Holder(f"node-{number}", 4711, "1", f"node-{number}/boot/pid:[1]")
        self._files = LeaseFiles(folder, clock, STALE_S)
        self._on_acquired = on_acquired
        self._killed = False
        self._resumed = threading.Semaphore(0)
        self._suspended = threading.Semaphore(0)

    def begin(self, operation: Callable[[], None]) -> None:
        """Begin an operation, until its first call to the storage."""
        self.is_busy = True
        threading.Thread(target=self._run, args=(operation,), daemon=True).start()
        self._wait()

    def step(self, calls: int = ALL) -> None:
        """Make so many calls to the storage, or fewer if the operation ends, and go on until the next."""
        for _ in range(calls):
            if self.is_busy:
                self._resumed.release()
                self._wait()

    def kill(self) -> None:
        """End the driver without the call that comes next."""
        self._killed = True
        self.step()

    def acquire(self) -> None:
        self.refused = False
        try:
            self.lease, _ = self._files.acquire(self._holder)
            self._on_acquired(self.lease)
        except RunFolderLockedError:
            self.refused = True
        self.was_late = False

    def send_heartbeat(self) -> None:
        assert self.lease is not None
        self.lease = None if self._files.is_replaced(self.lease.id) else self._files.renew(self.lease)
        self.stolen = self.lease is None and not self.was_late
        self.was_late = False

    def release(self) -> None:
        assert self.lease is not None
        lease, self.lease = self.lease, None
        self._files.abandon(lease)
        self._files.release(lease)

    def holds(self) -> bool:
        """Return whether it goes on without a look at the storage."""
        return self.lease is not None and self._files.is_confirmed(self.lease)

    def note_time(self) -> None:
        """Note that the clock was set forward."""
        self.was_late = self.was_late or not self.holds()

    def _run(self, operation: Callable[[], None]) -> None:
        with contextlib.suppress(Killed):
            operation()
        self.is_busy = False
        self._suspended.release()

    def _wait(self) -> None:
        assert self._suspended.acquire(timeout=30), "the driver neither ends nor calls the storage"

    def _suspend(self) -> None:
        self._suspended.release()
        self._resumed.acquire()
        if self._killed:
            raise Killed


class LeaseModel(RuleBasedStateMachine):
    """Three drivers on one folder, on machines with the same time."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = ManualClock(1_700_000_000.0)
        self._path = f"/{uuid.uuid4().hex}"
        self._observer = LeaseFiles(DataFolder(self._path, MemoryFileSystem()), self._clock, STALE_S)
        self._numbers = itertools.count()
        self._replaced: set[str] = set()
        self._drivers: list[Driver] = []
        self._drivers = [self._new_driver() for _ in range(3)]
        self._locked_until_s = 0.0

    @initialize(calls=CALLS)
    def suspend_a_holder_in_its_heartbeat(self, calls: int) -> None:
        self.acquire_or_renew(0, ALL)
        self.acquire_or_renew(0, calls)
        self.advance(STALE_S + 1)

    @rule(index=DRIVERS, calls=CALLS)
    def acquire_or_renew(self, index: int, calls: int) -> None:
        driver = self._drivers[index]
        if not driver.is_busy:
            driver.begin(driver.acquire if driver.lease is None else driver.send_heartbeat)
        driver.step(calls)

    @rule(index=DRIVERS, calls=CALLS)
    def release(self, index: int, calls: int) -> None:
        driver = self._drivers[index]
        if not driver.is_busy and driver.lease is not None:
            driver.begin(driver.release)
        driver.step(calls)

    @rule()
    def come_and_go(self) -> None:
        visitor = self._new_driver()
        visitor.begin(visitor.acquire)
        visitor.step()
        if visitor.lease is not None:
            visitor.begin(visitor.release)
            visitor.step()

    @rule()
    def live_for_a_minute(self) -> None:
        for _ in range(2):
            self.advance(31.0)
            for driver in self._drivers:
                if not driver.is_busy and driver.lease is not None:
                    driver.begin(driver.send_heartbeat)
                    driver.step()

    @rule()
    def resume_all(self) -> None:
        for driver in self._drivers:
            driver.step()

    @rule(seconds=st.sampled_from([61.0, 31.0, 21.0, 1.0]))
    def advance(self, seconds: float) -> None:
        self._clock.now_s += seconds
        for driver in self._drivers:
            driver.note_time()

    @rule(index=DRIVERS)
    def kill(self, index: int) -> None:
        driver = self._drivers[index]
        if driver.is_busy or driver.lease is not None:
            self._locked_until_s = self._clock.now_s + STALE_S
        driver.kill()
        self._drivers[index] = self._new_driver()

    @precondition(lambda self: self._is_free())
    @rule(index=DRIVERS)
    def acquire_free_lease(self, index: int) -> None:
        driver = self._drivers[index]
        driver.begin(driver.acquire)
        driver.step()
        assert driver.holds(), "nobody holds the lease, and yet it is locked"

    @invariant()
    def has_one_holder(self) -> None:
        assert sum(driver.holds() for driver in self._drivers) <= 1, "two drivers hold the lease"

    @invariant()
    def holder_is_known_to_others(self) -> None:
        for driver in self._drivers:
            if driver.holds() and driver.lease is not None:
                assert not self._observer.is_replaced(driver.lease.id), "a driver holds the lease that another one has"

    @invariant()
    def replaced_holder_never_goes_on(self) -> None:
        held = {driver.lease.id for driver in self._drivers if driver.lease is not None and driver.holds()}
        assert not held & self._replaced, "a driver goes on after another one had its lease"

    @invariant()
    def nothing_is_stolen(self) -> None:
        assert not any(driver.stolen for driver in self._drivers), "a timely driver lost its lease"

    def teardown(self) -> None:
        for driver in self._drivers:
            driver.kill()
        self._clock.now_s += STALE_S + 1
        last = self._new_driver()
        last.begin(last.acquire)
        last.step()
        for path in [path for path in MemoryFileSystem.store if path.startswith(self._path)]:
            del MemoryFileSystem.store[path]
        assert last.holds(), "the lease outlives its holders"

    def _note_acquired(self, lease: Lease) -> None:
        leases = (driver.lease for driver in self._drivers)
        self._replaced.update(other.id for other in leases if other is not None and other.id != lease.id)

    def _is_free(self) -> bool:
        is_used = any(driver.is_busy or driver.lease is not None for driver in self._drivers)
        return not is_used and self._clock.now_s > self._locked_until_s

    def _new_driver(self) -> Driver:
        return Driver(next(self._numbers), self._path, self._clock, self._note_acquired)


TestLease = LeaseModel.TestCase
TestLease.settings = settings(
    max_examples=300, stateful_step_count=20, deadline=None, derandomize=True, database=None, phases=(Phase.generate,)
)
