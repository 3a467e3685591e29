"""Python environments other than that of the tests, made with uv from the packages that it has in its cache."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_MADE = "made-of.txt"


def environment(name: str, requirements: Sequence[str], constraints: bool = True, python: str = sys.executable) -> Path:
    """Return the Python of an environment with the requirements, which is made unless it is there.

    Args:
        name: the name of its folder below `build/environments`.
        requirements: what to install.
        constraints: whether to install the versions that the tests' own environment has.
        python: the Python to make it with.
    """
    folder = _ROOT / "build" / "environments" / name
    made = "\n".join((sys.version, python, *requirements))
    stamp = folder / _MADE
    if not (stamp.is_file() and stamp.read_text() == made):
        install(folder, requirements, constraints, python)
        stamp.write_text(made)
    return folder / "bin" / "python"


def install(folder: Path, requirements: Sequence[str], constraints: bool = True, python: str = sys.executable) -> Path:
    """Make an environment in a folder, and return its Python; the other arguments are those of `environment`."""
    _uv("venv", "--quiet", "--clear", "--python", python, str(folder))
    pins = ["--constraint", str(_ROOT / "constraints.txt")] if constraints else []
    options = ["--quiet", "--compile-bytecode", "--python", str(folder / "bin/python"), *pins]
    _uv("pip", "install", *options, *requirements)
    return folder / "bin" / "python"


def _uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", *arguments], check=True, timeout=280)
