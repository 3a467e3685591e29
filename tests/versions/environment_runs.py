"""Runs the tests of the version matrix, each row in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

from tests.versions import installing
from tests.versions.environments import Environment
from tests.versions.installing import ROOT

BUILD = ROOT / "build" / "versions"
PACKAGES = ("ray_pipeline_core", "airflow_provider", "prefect_integration")
SHOWN = {"ray": "Ray", "apache-airflow": "Airflow", "prefect": "Prefect"}
"""The distributions whose versions the table shows, with its headings."""


@dataclass(frozen=True)
class Outcome:
    """What came of an environment.

    Attributes:
        name: its name.
        tested_on: the date.
        ok: whether nothing has failed; a row may also be impossible to run on this machine, as its result says.
        result: what the table says.
        versions: the versions of what the table has columns for.
    """

    name: str
    tested_on: str
    ok: bool
    result: str
    versions: dict[str, str]


def run(environment: Environment) -> Outcome:
    """Make the environment and run its tests; without a Python for it, check types and syntax instead."""
    python = find_python(environment.pythons)
    if python is None:
        return _store(environment, *_check_types(environment.pythons[0]), {"Python": environment.pythons[0]})
    folder = BUILD / environment.name
    try:
        installing.make(environment, python, folder)
    except installing.InstallError as error:
        return _store(environment, False, str(error), {})
    except installing.UnavailableError as error:
        return _store(environment, True, f"not run: {error}", {})
    return _store(environment, *_run_tests(environment, folder), _versions(folder))


def find_python(versions: Iterable[str]) -> str | None:
    """Return the path of the first of these versions of Python that this machine has, installed or by pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for version in versions:
        candidates = (shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python")))
        for candidate in filter(None, candidates):
            if _works(candidate):
                return candidate
    return None


def _works(python: str) -> bool:
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def stored_outcome(environment: Environment) -> Outcome:
    """Return the outcome of its newest run on this machine."""
    file = _result_file(environment)
    if not file.exists():
        return Outcome(environment.name, "", False, "not run", {})
    return Outcome(**json.loads(file.read_text()))


def _result_file(environment: Environment) -> Path:
    return BUILD / "results" / f"{environment.name}.json"


def _store(environment: Environment, ok: bool, result: str, versions: dict[str, str]) -> Outcome:
    outcome = Outcome(environment.name, f"{datetime.now(timezone.utc):%Y-%m-%d}", ok, result, versions)
    file = _result_file(environment)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(outcome)))
    return outcome


def _run_tests(environment: Environment, folder: Path) -> tuple[bool, str]:
    report = folder / "junit.xml"
    # Warnings are errors in `make test`; what other releases warn of as well must not fail here.
    options = ("-q", "--durations=12", "-p", "no:cacheprovider", "-o", "filterwarnings=ignore", f"--junitxml={report}")
    command = [str(folder / "bin" / "python"), "-m", "pytest", *options, *environment.tests]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return code == 0, _summary(report) if report.exists() else f"pytest ended with {code}"


def _summary(report: Path) -> str:
    counts: dict[str, int] = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        counts = {name: count + int(suite.get(name, 0)) for name, count in counts.items()}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    others = {"failed": failed, "skipped": counts["skipped"]}
    return ", ".join([f"{passed} passed", *(f"{count} {name}" for name, count in others.items() if count)])


def _versions(folder: Path) -> dict[str, str]:
    command = [str(folder / "bin" / "python"), "-c", "import platform; print(platform.python_version())"]
    python = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    installed = installing.versions(folder)
    return {"Python": python} | {shown: installed[name] for name, shown in SHOWN.items() if name in installed}


def _check_types(version: str) -> tuple[bool, str]:
    """Check the packages with mypy as if they ran on that version of Python."""
    command = [sys.executable, "-m", "mypy", "--python-version", version, *PACKAGES]
    ok = subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    checked = "types and syntax checked with mypy" if ok else "mypy found mistakes"
    return ok, f"not available here: {checked}"
