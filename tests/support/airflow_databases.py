"""The database of a started Airflow: PostgreSQL where this machine has it, else SQLite.

With SQLite, two requests of Airflow's API server may wait for each other until one of them gives up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.support.ray_processes import free_port
from tests.support.waiting import wait_for

_OWNER = "postgres"
"""Who runs PostgreSQL where this process is root's, whom it refuses."""
_NOT_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_HELD_S = 1.0


class Database(Protocol):
    """A database.

    Attributes:
        url: where Airflow finds it.
    """

    url: str

    def is_held(self) -> bool:
        """Return whether some process does not end its transaction."""
        ...

    def text(self) -> str:
        """Return all that is in it."""
        ...


@contextlib.contextmanager
def started_database(home: Path) -> Iterator[Database]:
    """Start a database for the Airflow of a home, and end it with all that is in it."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(programs[-1]) if programs else shutil.which("initdb")
    if found is None:
        print("The database of Airflow is SQLite, since this machine has no PostgreSQL", flush=True)
        yield Sqlite(home / "airflow.db")
        return
    with _started_postgres(Path(found).resolve().parent) as database:
        yield database


class Sqlite:
    """A database in a file."""

    def __init__(self, file: Path) -> None:
        self.url = f"sqlite:///{file}?timeout=60"
        self._file = file

    def is_held(self) -> bool:
        """Return whether it can't be written to."""
        database = sqlite3.connect(self._file, timeout=2)
        try:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
            return False
        except sqlite3.OperationalError:
            return True
        finally:
            database.close()

    def text(self) -> str:
        """Return what is in the file."""
        return self._file.read_bytes().decode(errors="replace")


class Postgres:
    """A server of its own, whose data are lost with it.

    Args:
        programs: the folder of PostgreSQL's programs.
        port: the port of the server.
    """

    def __init__(self, programs: Path, port: int) -> None:
        self.url = f"postgresql+psycopg2://airflow@127.0.0.1:{port}/airflow"
        self._programs = programs
        self._where = ["-h", "127.0.0.1", "-p", str(port), "-U", "airflow"]

    def is_up(self) -> bool:
        """Return whether it answers."""
        return subprocess.run([self._programs / "pg_isready", *self._where], capture_output=True).returncode == 0

    def create(self) -> None:
        """Create the database in the server."""
        _run([self._programs / "createdb", *self._where, "airflow"])

    def is_held(self) -> bool:
        """Return whether some process has done nothing in its transaction for a second."""
        time.sleep(_HELD_S)
        idle = f"state LIKE 'idle in transaction%' AND now() - state_change > interval '{_HELD_S / 2} s'"
        question = f"SELECT count(*) FROM pg_stat_activity WHERE {idle}"
        return _run([self._programs / "psql", *self._where, "-Atc", question, "airflow"]).strip() != "0"

    def text(self) -> str:
        """Return the whole as SQL."""
        return _run([self._programs / "pg_dump", *self._where, "airflow"])


@contextlib.contextmanager
def _started_postgres(programs: Path) -> Iterator[Postgres]:
    owner: dict[str, Any] = {"user": _OWNER, "group": _OWNER} if os.getuid() == 0 else {}
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder, Path(folder, "log").open("wb") as log:
        if owner:
            shutil.chown(folder, _OWNER, _OWNER)
        made = ["--pgdata", f"{folder}/data", "--username=airflow", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        _run([programs / "initdb", *made], **owner)
        where = ["-D", f"{folder}/data", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "max_connections=200"]
        settings = [part for name in _NOT_DURABLE for part in ("-c", f"{name}=off")]
        server = subprocess.Popen(
            [programs / "postgres", *where, *settings], cwd=folder, stdout=log, stderr=log, **owner
        )
        try:
            database = Postgres(programs, port)
            wait_for(lambda: database.is_up() or server.poll() is not None, "PostgreSQL")
            assert server.poll() is None, Path(folder, "log").read_text()
            database.create()
            yield database
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def _run(command: list[str | Path], **options: Any) -> str:
    done = subprocess.run(command, cwd="/tmp", capture_output=True, timeout=120, **options)
    assert done.returncode == 0, done.stderr.decode()
    return str(done.stdout, errors="replace")
