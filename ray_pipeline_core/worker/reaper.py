"""Ends what a worker process leaves behind: `python reaper.py <pid of the worker> <mark>`.

A rank may start processes, and a worker that is killed from outside or crashes takes none of them along. They would
go on writing while the rank is tried again elsewhere. So every worker process has a reaper: it waits for the worker's
end, then kills the worker's process group, and whatever else bears the worker's mark. Programs inherit the mark with
their environment, forks as the name of an open file; so a process escapes only if it drops the one and closes the
other, and leaves the group.

This file is run as a script, without the package, so that it starts in a moment and stays small.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

TAG_VARIABLE = "RAY_PIPELINE_WORKER"
"""Names the worker that a process comes from, and before it the worker that this one comes from."""
_POLL_INTERVAL_S = 0.5
_KILL_INTERVAL_S = 0.02
_KILL_ROUNDS = 100


def start_reaper() -> None:
    """Makes sure that all processes which this one will have started end with it."""
    with contextlib.suppress(OSError):  # the leader of a session has its group already
        os.setpgid(0, 0)
    own_mark = f"{os.getpid()}-{os.urandom(8).hex()}"
    command = [sys.executable, "-S", "-E", os.path.abspath(__file__), str(os.getpid()), own_mark]
    # A session of its own keeps it out of the group. It forks once more, so that it is nobody's child here:
    # Ray kills a worker's children with it, and then nobody would be left to kill theirs.
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).wait()
    # Only now, so that the reaper does not bear it.
    mark = ",".join(filter(None, (os.environ.get(TAG_VARIABLE), own_mark)))
    os.environ[TAG_VARIABLE] = mark
    if hasattr(os, "memfd_create"):
        os.memfd_create(mark[-240:])  # a name can't be longer; it stays open as long as this process and its forks live


def _wait_for_end(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not on this system, or gone already
        while _runs(pid):
            time.sleep(_POLL_INTERVAL_S)
    else:
        select.select([descriptor], [], [])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _kill_tagged(mark: str) -> None:
    for _ in range(_KILL_ROUNDS):  # what is about to die may still start others
        found = tagged_processes(mark)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)
        time.sleep(_KILL_INTERVAL_S)


def tagged_processes(mark: str) -> list[int]:
    """The ids of all other processes that bear a worker's mark."""
    return [pid for pid in _other_processes() if _has_tag(pid, mark)]


def _other_processes() -> list[int]:
    with contextlib.suppress(OSError):  # no such thing on this system
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return []


def _has_tag(pid: int, mark: str) -> bool:
    with contextlib.suppress(OSError):  # it is somebody else's, or ended meanwhile
        with open(f"/proc/{pid}/environ", "rb") as environment:
            if mark.encode() in environment.read():
                return True
        return any(mark in os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))
    return False


def main() -> None:
    """Detaches, waits for the process whose id is the first argument, and kills what it has left."""
    pid, mark = int(sys.argv[1]), sys.argv[2]
    if os.fork():
        os._exit(0)
    _wait_for_end(pid)
    with contextlib.suppress(OSError):  # nobody was left
        os.killpg(pid, signal.SIGKILL)
    _kill_tagged(mark)


if __name__ == "__main__":
    main()
