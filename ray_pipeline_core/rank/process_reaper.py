"""Ends what a worker process leaves behind: `python process_reaper.py <pid of the worker>`.

A rank may start processes, and a worker that is killed from outside or crashes takes none of them along. They would
go on writing while the rank is tried again elsewhere. So every worker process has a reaper: it waits for the worker's
end and then kills the worker's process group.

This file is run as a script, without the package, so that it starts in a moment and stays small.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

_POLL_INTERVAL_S = 0.5


def start_reaper() -> None:
    """Makes the calling process the leader of a process group that ends with it."""
    if os.getpgrp() != os.getpid():
        with contextlib.suppress(OSError):  # the leader of a session has its group already
            os.setpgid(0, 0)
    if os.getpgrp() != os.getpid():
        return
    command = [sys.executable, "-S", "-E", os.path.abspath(__file__), str(os.getpid())]
    # A session of its own keeps it out of the group. It forks once more, so that it is nobody's child here:
    # Ray kills a worker's children with it, and then nobody would be left to kill theirs.
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).wait()


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


def main() -> None:
    """Detaches, waits for the process whose id is the argument, and kills its group."""
    pid = int(sys.argv[1])
    if os.fork():
        os._exit(0)
    _wait_for_end(pid)
    with contextlib.suppress(OSError):  # nobody was left
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
