"""What `tests/conftest.py` adds to pytest-xdist, with which `make test` runs the tests in two processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CLONE = Path(__file__).parents[2]
NAMES_PROCESS = """
import os
from pathlib import Path

def test_{0}():
    folder = Path({1!r})
    with (folder / f"process_{{os.getpid()}}").open("a") as file:
        file.write("{0}\\n")
"""
LOGS_A_NAME = r"""
import logging

def test_logs():
    logging.getLogger("files").warning("no place for %s", "caf\udce9")
    assert "caf\udce9" == ""
"""


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    arguments = ["-p", "tests.conftest", "-n", "2", "--dist", "loadscope", "--rootdir", str(folder), str(folder)]
    command = [sys.executable, "-m", "pytest", "-c", str(folder / "pytest.ini"), *arguments]
    return subprocess.run(command, cwd=CLONE, capture_output=True, text=True, timeout=120, check=False)


def test_reports_may_hold_what_utf8_cannot_encode(tmp_path: Path) -> None:
    (tmp_path / "test_names.py").write_text(LOGS_A_NAME)
    end = _run(tmp_path)
    assert end.returncode == 1, end.stdout
    assert "no place for caf\\udce9" in end.stdout
    assert "1 failed" in end.stdout


def test_folders_are_dealt_whole(tmp_path: Path) -> None:
    for name in ("one", "two", "core/three", "core/four"):
        folder = tmp_path / "tests" / name
        folder.mkdir(parents=True)
        for file in ("a", "b", "c"):
            text = NAMES_PROCESS.format(f"{folder.name}_{file}", str(tmp_path))
            (folder / f"test_{file}.py").write_text(text)
    end = _run(tmp_path)
    assert end.returncode == 0, end.stdout
    ran = [path.read_text().split() for path in tmp_path.glob("process_*")]
    folders = [{name.split("_")[0] for name in names} for names in ran]
    assert sum(map(len, ran)) == 12
    assert len(folders) == 2
    assert not set.intersection(*folders)
