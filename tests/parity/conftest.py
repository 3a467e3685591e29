"""The same deduplication, run once by datatrove's own executor and once by ours."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples import minhash_dedup

TASKS = 4

# Small parts of the standard library that hold exact copies, near-duplicates and documents without a like.
_PACKAGES = ("email", "encodings", "json", "wsgiref")
_ROOT = Path(__file__).parents[2]
_LOCAL_CHAIN = Path(__file__).with_name("local_chain.py")

RunLocally = Callable[..., None]


@dataclass(frozen=True)
class Deduplication:
    """A finished deduplication.

    Attributes:
        work_dir: where its documents, outputs and run folders are.
        printed: what it printed.
    """

    work_dir: Path
    printed: str

    def run_folder(self, stage: str) -> Path:
        """The run folder of a stage."""
        return self.work_dir / "runs" / stage


def _run_locally(work_dir: Path, *options: str) -> None:
    # In a process of its own: datatrove's executor forks, and this process has the threads of Ray.
    command = [sys.executable, str(_LOCAL_CHAIN), str(work_dir), "--tasks", str(TASKS), *options]
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def run_locally() -> RunLocally:
    """Run the stages of a work folder, or what the options of `local_chain.py` choose, with datatrove's executor."""
    return _run_locally


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small source of documents."""
    folder = tmp_path_factory.mktemp("source")
    for package in _PACKAGES:
        shutil.copytree(minhash_dedup.STANDARD_LIBRARY / package, folder / package)
    return folder


@pytest.fixture(scope="session")
def local_chain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Deduplication:
    """The deduplication by datatrove's own executor."""
    work_dir = tmp_path_factory.mktemp("local")
    minhash_dedup.write_documents(source, work_dir, TASKS)
    _run_locally(work_dir)
    return Deduplication(work_dir, "")


@pytest.fixture(scope="session")
def ray_chain(ray_cluster: object, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Deduplication:
    """The deduplication by our executor on a Ray cluster, as the example's command runs it."""
    work_dir = tmp_path_factory.mktemp("ray")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exit_code = minhash_dedup.main(
            ["--work-dir", str(work_dir), "--source", str(source), "--tasks", str(TASKS), "--workers", "2"]
        )
    assert exit_code == 0
    return Deduplication(work_dir, printed.getvalue())
