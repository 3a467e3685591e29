"""Makes the environments of the version matrix with uv."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.versions.environments import Environment

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("pytest>=8.3", "pytest-timeout>=2.3", "psutil>=5.9", "s3fs>=2025.2")


class InstallError(Exception):
    """An environment can't be made of what its row asks for."""


class UnavailableError(Exception):
    """This machine can't make the environment of any row: it has no uv, or reaches no package index."""


def make(environment: Environment, python: str, folder: Path) -> None:
    """Make an environment with a Python.

    Raises:
        InstallError: its requirements can't be met, or the package has replaced a release that it must keep.
        UnavailableError: this machine has no uv, or uv gets no packages.
    """
    if not _uv("venv", "--quiet", "--clear", "--python", python, folder):
        raise UnavailableError("uv makes no environments on this machine")
    until = ("--exclude-newer", environment.until) if environment.until else ()
    wanted = (*until, *TOOLS, *environment.requirements, "--editable", environment.package)
    if environment.kept is None:
        _install(folder, *wanted)
    else:
        _install_beside(environment.kept, folder, *wanted)


def versions(folder: Path) -> dict[str, str]:
    """Return the versions of the distributions that an environment has, by name."""
    command = _command("pip", "list", "--quiet", "--format", "json", "--python", folder)
    listed: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {one["name"]: one["version"] for one in listed}


def _install_beside(kept: str, folder: Path, *arguments: object) -> None:
    """Install the newest release of `kept`, as somebody has it, and then what must leave that release as it is."""
    name = kept.partition("[")[0]
    _install(folder, kept)
    before = versions(folder)[name]
    _install(folder, *arguments)
    after = versions(folder)[name]
    if before != after:
        raise InstallError(f"{name} {before} was replaced by {after}")


def _install(folder: Path, *arguments: object) -> None:
    # Where Python may write no bytecode, each process would compile all that it imports, for which the dashboard of the
    # oldest Ray takes longer than Ray waits.
    if _uv("pip", "install", "--quiet", "--compile-bytecode", "--python", folder, *arguments):
        return
    probe = ("--dry-run", "--refresh", "--reinstall", "--no-deps", "pip")
    if _uv("pip", "install", "--quiet", "--python", folder, *probe):
        raise InstallError("can't be installed")
    raise UnavailableError("uv gets no packages on this machine")


def _uv(*arguments: object) -> bool:
    return subprocess.run(_command(*arguments), cwd=ROOT, check=False).returncode == 0


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "uv", *map(str, arguments)]
