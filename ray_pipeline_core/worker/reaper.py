"""Kills the processes that a worker leaves behind: `python reaper.py <pid> <tag> <reader> <state>`.

The arguments are the worker's process id, its tag, and the two descriptors of its `OutputSpool`.

A rank may start processes, and these survive a worker that crashes or is killed. They would continue to write while
the rank is retried elsewhere. So every worker process has a reaper, which waits until the worker has exited and then
kills its process group and all other processes with the worker's tag. Programs inherit the tag with their environment,
and forks inherit it as the name of an open file. A process is missed only if it has left the process group, dropped
the environment variable and closed the file.

Then it completes the log of the rank that ran: it appends what the worker and its children have written to descriptors
1 and 2, and the worker could not read any more, such as the last words of a crash. If the run folder is on remote
storage, it starts a process that uploads that log and others which are only on this node yet, and removes their files.

This file is run as a script and imports nothing from the package, so that the reaper starts fast and needs little
memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False  # that of `typing` costs memory
if TYPE_CHECKING:
    from typing import Any

TAG_VARIABLE = "RAY_PIPELINE_WORKER"
"""Environment variable with the tags of a process: its worker's, preceded by that of the worker's parent worker."""
_POLL_INTERVAL_S = 0.5
_KILL_INTERVAL_S = 0.02
_KILL_ROUNDS = 100
_STORE_LIMIT_S = 300.0
_STORE_COMMAND = ("-m", "ray_pipeline_core.worker.unstored_logs")


def start_reaper(reader: int, state: int) -> None:
    """Make sure that, when this process exits, all processes that it has started are killed and its log is complete.

    Args:
        reader: the descriptor `OutputSpool.reader` of this process.
        state: the descriptor `OutputSpool.state` of this process.
    """
    with contextlib.suppress(OSError):  # a session leader already has its own process group
        os.setpgid(0, 0)
    own_tag = f"{os.getpid()}-{os.urandom(8).hex()}"
    # The reaper has no tag, not even that of a parent worker, whose reaper would kill it before it is done. It needs
    # the path of modules for the process that stores logs.
    environment = {name: value for name, value in os.environ.items() if name != TAG_VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [
        sys.executable,
        "-S",
        "-E",
        os.path.abspath(__file__),
        str(os.getpid()),
        own_tag,
        str(reader),
        str(state),
    ]
    # The reaper runs in a separate session, so that it is not in the group that it kills. It also forks, so that it is
    # not a child of the worker: Ray kills a worker's children with the worker.
    subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(reader, state),
        env=environment,
    ).wait()
    tags = ",".join(filter(None, (os.environ.get(TAG_VARIABLE), own_tag)))
    os.environ[TAG_VARIABLE] = tags
    if hasattr(os, "memfd_create"):
        # The file stays open as long as this process or a fork of it runs. Its name is limited to 249 bytes.
        os.memfd_create(tags[-240:])


def _wait_for_exit(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not available on this system, or the process has exited
        while _is_running(pid):
            time.sleep(_POLL_INTERVAL_S)
    else:
        select.select([descriptor], [], [])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _kill_tagged(tag: str) -> None:
    for _ in range(_KILL_ROUNDS):  # a process may start others until it is dead
        pids = tagged_processes(tag)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(OSError):  # it has exited
                os.kill(pid, signal.SIGKILL)
        time.sleep(_KILL_INTERVAL_S)


def tagged_processes(tag: str) -> list[int]:
    """Return the ids of all other processes that have a worker's tag."""
    return [pid for pid in _other_processes() if _has_tag(pid, tag)]


def _other_processes() -> list[int]:
    with contextlib.suppress(OSError):  # this system has no /proc
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return []


def _has_tag(pid: int, tag: str) -> bool:
    with contextlib.suppress(OSError):  # it belongs to another user, or has exited
        with open(f"/proc/{pid}/environ", "rb") as environment:
            if tag.encode() in environment.read():
                return True
        return any(tag in os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))
    return False


def _read_state(state: int) -> dict[str, Any]:
    content: dict[str, Any] = {"running": None, "unstored": []}
    with contextlib.suppress(ValueError):  # nothing was written yet, or the worker has died while it wrote
        content = json.loads(os.pread(state, os.fstat(state).st_size, 0).partition(b"\n")[0])
    return content


def _store_logs(state: int) -> None:
    logs = _read_state(state)["unstored"]
    if not logs:
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # no process could be started, or it took too long
        command = [sys.executable, *_STORE_COMMAND]
        subprocess.run(command, input=json.dumps(logs).encode(), timeout=_STORE_LIMIT_S, check=False)
    for log in logs:
        with contextlib.suppress(OSError):
            os.unlink(log["local_path"])


def _complete_log(reader: int, state: int) -> None:
    log = _read_state(state)["running"]
    if log is None:  # no rank was running
        return
    descriptor = _open_log(log["paths"], log["file"])
    if descriptor is None:
        return
    # Each line has the form of a record of `RankLog`.
    with (
        open(reader, "rb", closefd=False) as output,
        open(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for line in output:
            now_s = time.time()
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now_s)) + f".{int(now_s * 1000) % 1000:03}"
            text = line.rstrip(b"\r\n").rpartition(b"\r")[2].decode("utf-8", "backslashreplace")
            file.write(f"{log['prefix']}{stamp} | INFO     | process:print:0 - {text}\n")


def _open_log(paths: list[str], file: list[int]) -> int | None:
    """Open the log where it is; the next attempt may have moved it, and started another one in its place."""
    for path in paths:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            status = os.fstat(descriptor)
            if [status.st_dev, status.st_ino] == file:
                return descriptor
            os.close(descriptor)
    return None


def main() -> None:
    """Detach, wait for the exit of the worker, kill the processes that it left behind, and complete its logs."""
    pid, tag, reader, state = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if os.fork():
        os._exit(0)
    _wait_for_exit(pid)
    with contextlib.suppress(OSError):  # the group has no process left
        os.killpg(pid, signal.SIGKILL)
    _complete_log(reader, state)  # at once, since somebody may wait for the last words
    _kill_tagged(tag)
    _complete_log(reader, state)
    _store_logs(state)


if __name__ == "__main__":
    main()
